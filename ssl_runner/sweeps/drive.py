"""Drives a sweep: starts a job wherever a slot is free, sees jobs end, and stops them all at a signal."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from ssl_runner.runs import run_folder
from ssl_runner.runtime.signals import stop_signals
from ssl_runner.sweeps import resources
from ssl_runner.sweeps.launcher import Elsewhere, Launcher, Working
from ssl_runner.sweeps.sweep import Sweep
from ssl_runner.sweeps.table import Table

PULSE = 0.05  # seconds between two looks at the jobs


class Queue(Protocol):
    """Chooses the next job."""

    def next(self) -> int | None:
        """The number of a job to start now, or None."""
        ...

    def is_empty(self) -> bool:
        """Whether no job will follow, even when those at work have ended."""
        ...

    def ended(self, number: int) -> None:
        """A job has ended; its state is in the sweep."""
        ...

    def again(self, number: int) -> None:
        """A job that another command had started was stopped with that command, and is to be run."""
        ...

    def gives_up(self, number: int) -> bool:
        """Whether a job at work is to be stopped, because its figures are bad."""
        ...


class Grid:
    """The jobs of a sweep that are not finished, in their order."""

    def __init__(self, left: Iterable[int]) -> None:
        self.left = deque(left)

    def next(self) -> int | None:
        return self.left.popleft() if self.left else None

    def is_empty(self) -> bool:
        return not self.left

    def ended(self, number: int) -> None:
        pass

    def again(self, number: int) -> None:
        self.left.append(number)

    def gives_up(self, number: int) -> bool:
        return False


def drive(sweep: Sweep, launcher: Launcher, queue: Queue, table: Table) -> None:
    """Run jobs until the queue is empty and all have ended. After a signal, jobs save and end, and none is started.

    Raises:
        KeyboardInterrupt: A signal asked the sweep to end.
    """
    slots, working = launcher.slots(sweep), list[Working]()
    code, passed_on = resources.code_stamp(), False
    with stop_signals() as stop, launcher.opened(sweep), table.shown(sweep):
        try:
            while working or not (stop.requested or queue.is_empty()):
                while len(working) < slots and not stop.requested and (number := queue.next()) is not None:
                    code = _report_new_code(code, sweep, number, table)
                    working.append(_start(sweep, launcher, number))
                    table.started(sweep, number)
                time.sleep(PULSE)
                working = [one for one in working if not _has_ended(one, sweep, queue, table)]
                table.refresh(sweep, [one.number for one in working])
                if stop.requested and not passed_on:
                    passed_on = True
                    table.stopping(len(working))
                    for one in working:
                        one.stop()
        finally:  # empty unless the launcher failed, or Ctrl-C was pressed twice
            for one in working:
                one.kill()
                sweep.look(one.number)
    if stop.requested:
        raise KeyboardInterrupt


def _start(sweep: Sweep, launcher: Launcher, number: int) -> Working:
    if sweep.look(number).status == run_folder.RUNNING:
        return Elsewhere(sweep, number)
    sweep.write_job(number)
    return launcher.start(sweep, number)


def _has_ended(one: Working, sweep: Sweep, queue: Queue, table: Table) -> bool:
    code = one.ended()
    if code is None:
        if queue.gives_up(one.number):
            one.stop()
        return False
    state = sweep.look(one.number, code)
    if one.ours or state.finished:
        queue.ended(one.number)
    else:
        queue.again(one.number)
    table.ended(sweep, one.number)
    return True


def _report_new_code(before: int, sweep: Sweep, number: int, table: Table) -> int:
    """Warn if a file of the package has changed; configs are in the manifest, so files in conf/ change nothing."""
    now = resources.code_stamp()
    if now != before:
        table.warn(
            f"the code was edited while this sweep runs: {sweep.jobs[number].name} and the jobs after it run with the "
            "new code"
        )
    return now
