"""What SLURM says of a user's jobs, asked for all of them at once."""

import os
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass

from ssl_runner.errors import ClusterSilent

EVERY = 2.0  # seconds between two questions of one command; all users share the scheduler
_PATIENCE = 60  # seconds
_USUAL_ARRAY = 1001  # SLURM's own MaxArraySize
_LATER = "the jobs in the queue go on without it: give the command again later"
PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
RUNNING = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})
ACTIVE = PENDING | RUNNING


@dataclass(frozen=True)
class Task:
    """A task as SLURM lists it.

    Attributes:
        state: ``PENDING``, ``RUNNING``, ``CANCELLED`` and so on.
        name: Of its SLURM job.
    """

    state: str
    name: str = ""

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE


class Queue:
    """The user's tasks by their ids (``17_3``, or ``17`` outside an array), those that ended a short time ago too."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.asked = -EVERY

    def refresh(self) -> None:
        """Ask SLURM.

        Raises:
            ClusterSilent: It does not answer.
        """
        asked = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%j"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise ClusterSilent(f"squeue has not answered for {_PATIENCE} s; {_LATER}") from None
        if done.returncode:
            raise ClusterSilent(f"squeue: {_last_line(done.stderr).removeprefix('squeue: ')}; {_LATER}")
        rows = (line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2)
        self.tasks = {number: Task(state, name) for number, state, name in rows}
        self.asked = time.monotonic()

    def now(self) -> dict[str, Task]:
        """The tasks, at most two seconds old; older while SLURM does not answer, as it restarts."""
        if time.monotonic() - self.asked >= EVERY:
            self.asked = time.monotonic()
            try:
                self.refresh()
            except ClusterSilent:
                if not self.tasks:
                    raise
        return self.tasks


def ended(numbers: Collection[str]) -> dict[str, str]:
    """States of tasks that squeue no longer lists; empty on clusters that keep no accounts."""
    if not numbers:
        return {}
    arrays = ",".join(dict.fromkeys(number.partition("_")[0] for number in numbers))
    asked = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={arrays}"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = (line.split("|", 1) for line in done.stdout.splitlines() if "|" in line)
    return {number: state.split()[0] for number, state in rows if number in numbers and state.strip()}


def largest_array() -> int:
    """How many tasks the cluster takes as one array."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return _USUAL_ARRAY
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize" and value.strip().isdigit():
            return max(1, int(value))
    return _USUAL_ARRAY


def cancel(number: str) -> None:
    """Cancel a task. SLURM first asks it to end, so that it saves, and ends it some seconds later (its KillWait)."""
    subprocess.run(["scancel", "--quiet", number], capture_output=True, check=False)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
