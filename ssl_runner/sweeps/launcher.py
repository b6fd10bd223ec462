"""What a launcher of jobs offers, and what `drive` asks of a job at work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from ssl_runner.runs import run_folder
from ssl_runner.sweeps.sweep import Sweep


class Working(Protocol):
    """A job at work.

    Attributes:
        number: The job's.
        ours: Whether the launcher started it; False for a job that an earlier command left at work.
    """

    number: int
    ours: bool

    def ended(self) -> int | None:
        """The exit code, for a signal minus its number, or None if the job is still at work."""
        ...

    def stop(self) -> None:
        """Ask the job to save and end."""
        ...

    def kill(self) -> None:
        """End the job at once; its last checkpoint stays."""
        ...


class Launcher(Protocol):
    """Runs the jobs of a sweep somewhere.

    Attributes:
        detached: Whether jobs outlive the command, which then submits them and returns.
    """

    detached: bool

    def slots(self, sweep: Sweep) -> int:
        """How many jobs run at once."""
        ...

    @contextmanager
    def opened(self, sweep: Sweep) -> Iterator[None]:
        """Inside, jobs can be started."""
        ...

    def start(self, sweep: Sweep, number: int) -> Working:
        """Start a job whose file is written; `ssl-train --job FOLDER` runs it, or resumes it."""
        ...


class Elsewhere:
    """A job that a process of an earlier command still runs; the lock on its folder shows when it has ended."""

    ours = False

    def __init__(self, sweep: Sweep, number: int) -> None:
        self.sweep, self.number = sweep, number

    def ended(self) -> int | None:
        return None if self.sweep.look(self.number).status == run_folder.RUNNING else 0

    def stop(self) -> None:
        """Another command's job is left alone."""

    def kill(self) -> None:
        """Another command's job is left alone."""
