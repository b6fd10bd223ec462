"""Which process of a run does not answer: each leaves signs of life where they have met.

A collective cannot tell: it waits for a process that is stopped as it does for one that evaluates for an hour.
"""

import sys
import threading
from typing import Any

from ssl_runner.errors import ProcessLost
from ssl_runner.runtime import streams

SILENCE = 30.0  # seconds, after which a process that does not answer is told of
PULSE = 0.5  # seconds between two signs of life


class Watch:
    """Gives signs of life of this process, and listens for those of others while it waits for them.

    Attributes:
        step: Steps done, or None before the first.

    Args:
        store: A client of the TCPStore, for this alone: a store that does not answer holds its thread up.
        rank: This process's number.
        size: Processes.
        timeout: Seconds to wait for a process that does not answer.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        self.store, self.rank, self.size, self.timeout = store, rank, size, timeout
        self.step: int | None = None
        self.told: set[int] = set()
        self.silent: dict[int, float] = {}
        self.listening = False
        # rounds that the thread has made, and every process's signs in the last of them; replaced as a whole
        self.seen: tuple[int, list[int]] = (0, [])
        self.heard = self.seen
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._live, name="signs of life", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Give no more signs; a thread that lived on would abort the interpreter at its end."""
        self.over.set()
        self.thread.join(4 * PULSE)

    def begin(self) -> None:
        """To be called before this process waits for others."""
        self.silent = dict.fromkeys((number for number in range(self.size) if number != self.rank), 0.0)
        self.told.clear()

    def end(self) -> None:
        """To be called when all have come."""
        self.listening = False

    def listen(self) -> None:
        """To be called whenever another `PULSE` has passed in waiting.

        Seconds are counted in these calls, not by a clock: a run that is stopped as a whole, or a laptop that sleeps,
        does not make one process suspect another.

        Raises:
            ProcessLost: A process has not answered for as long as it is waited for.
        """
        seen, before = self.seen, self.heard
        self.heard = seen
        if not self.listening:
            self.listening = True
            return
        if seen[0] == before[0]:  # the store, which as a rule is process 0's
            self.silent |= {number: seconds + PULSE for number, seconds in self.silent.items() if number == 0}
        elif len(seen[1]) == len(before[1]) == self.size:
            for number, seconds in self.silent.items():
                self.silent[number] = seconds + PULSE if seen[1][number] == before[1][number] else 0.0
        for number, seconds in self.silent.items():
            if seconds < SILENCE:
                self.told.discard(number)
            elif number not in self.told:
                self.told.add(number)
                self._tell(number)
            if seconds >= self.timeout:
                raise ProcessLost(f"process {number} has not answered for {self.timeout:g} s, trainer.timeout")

    def _tell(self, number: int) -> None:
        """Say who is silent, as the first of those who are not."""
        if min(set(range(self.size)) - self.told) != self.rank:
            return
        since = "the start" if self.step is None else f"step {self.step + 1}"
        text = (
            f"process {number} has not answered since {since}, for {SILENCE:g} s now: it was stopped, or its host or "
            f"the network hangs; the run ends when it has not for {self.timeout:g} s (trainer.timeout)"
        )
        print(f"warning: {text}", file=sys.stderr, flush=True)
        streams.log(text)

    def _live(self) -> None:
        rounds = 0
        while not self.over.is_set():
            everybody = range(self.size) if self.listening else (self.rank,)
            try:
                signs = [self.store.add(f"ssl_runner/alive/{n}", int(n == self.rank)) for n in everybody]
            except RuntimeError:  # the store is gone, with its process: who waits for that is told by the network
                return
            rounds += 1
            self.seen = (rounds, signs)
            self.over.wait(PULSE)
