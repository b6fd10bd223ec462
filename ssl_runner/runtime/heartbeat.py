"""Finds the process of a run that does not answer: each process sends signs of life to a shared store.

A collective operation cannot do this: it waits for a stopped process as it does for one that evaluates for an hour.
"""

import sys
import threading
from typing import Any

from ssl_runner.errors import ProcessLost
from ssl_runner.runtime import streams

SILENCE = 30.0  # seconds after which a process that does not answer is reported
PULSE = 0.5  # seconds between two signs of life


class Watch:
    """Sends signs of life of this process, and checks those of others while it waits for them.

    Attributes:
        step: Number of steps done, or None before the first.

    Args:
        store: A client of the TCPStore that nothing else uses, since a store that does not answer blocks its thread.
        rank: This process's number.
        size: Number of processes.
        timeout: Seconds to wait for a process that does not answer.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        self.store, self.rank, self.size, self.timeout = store, rank, size, timeout
        self.step: int | None = None
        self.reported: set[int] = set()
        self.silent: dict[int, float] = {}
        self.listening = False
        # number of rounds of the thread, and every process's sign count in the last round; replaced as a whole
        self.seen: tuple[int, list[int]] = (0, [])
        self.heard = self.seen
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._live, name="signs of life", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Stop sending signs; a thread still running when the interpreter exits would abort it."""
        self.over.set()
        self.thread.join(4 * PULSE)

    def begin(self) -> None:
        """Call this before the process waits for others."""
        self.silent = dict.fromkeys((number for number in range(self.size) if number != self.rank), 0.0)
        self.reported.clear()

    def end(self) -> None:
        """Call this when all processes have arrived."""
        self.listening = False

    def listen(self) -> None:
        """Call this after every `PULSE` seconds of waiting.

        Seconds are counted by these calls, not by a clock. So if the whole run is paused, or a laptop sleeps, no
        process suspects another.

        Raises:
            ProcessLost: A process has not answered within the timeout.
        """
        seen, before = self.seen, self.heard
        self.heard = seen
        if not self.listening:
            self.listening = True
            return
        if seen[0] == before[0]:  # the store does not answer, which usually runs in process 0
            self.silent |= {number: seconds + PULSE for number, seconds in self.silent.items() if number == 0}
        elif len(seen[1]) == len(before[1]) == self.size:
            for number, seconds in self.silent.items():
                self.silent[number] = seconds + PULSE if seen[1][number] == before[1][number] else 0.0
        for number, seconds in self.silent.items():
            if seconds < SILENCE:
                self.reported.discard(number)
            elif number not in self.reported:
                self.reported.add(number)
                self._report(number)
            if seconds >= self.timeout:
                raise ProcessLost(f"process {number} has not answered for {self.timeout:g} s, trainer.timeout")

    def _report(self, number: int) -> None:
        """Report a silent process, if this is the first process that is not silent."""
        if min(set(range(self.size)) - self.reported) != self.rank:
            return
        since = "the start" if self.step is None else f"step {self.step + 1}"
        text = (
            f"process {number} has not answered since {since}, for {SILENCE:g} s: it was stopped, or its host or the "
            f"network hangs; the run ends after {self.timeout:g} s without an answer (trainer.timeout)"
        )
        print(f"warning: {text}", file=sys.stderr, flush=True)
        streams.log(text)

    def _live(self) -> None:
        rounds = 0
        while not self.over.is_set():
            everybody = range(self.size) if self.listening else (self.rank,)
            try:
                signs = [self.store.add(f"ssl_runner/alive/{n}", int(n == self.rank)) for n in everybody]
            except RuntimeError:  # the store's process is gone; the network reports this to processes that wait for it
                return
            rounds += 1
            self.seen = (rounds, signs)
            self.over.wait(PULSE)
