"""How the jobs of a sweep stand with SLURM: from their run folders first, then from the queue."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssl_runner.runs import run_folder
from ssl_runner.sweeps.slurm import queue as slurm_queue
from ssl_runner.sweeps.slurm.queue import ACTIVE, PENDING, Task
from ssl_runner.sweeps.slurm.record import Record
from ssl_runner.sweeps.state import MISSING
from ssl_runner.sweeps.sweep import OUTPUT, Sweep

LOGS = "slurm"  # the folder of submitit's files, in the sweep's
_AT_WORK = ("running", "pending", "requeued")
_WORDS = {  # why SLURM ended a task
    "TIMEOUT": "it reached the time limit before it could save; raise hydra.launcher.seconds_to_save",
    "OUT_OF_MEMORY": "out of memory; raise hydra.launcher.memory_per_job",
    "NODE_FAIL": "its node failed",
}


@dataclass(frozen=True)
class Standing:
    """How a job stands.

    Attributes:
        word: ``done``, ``running``, ``pending``, ``requeued`` (waits to go on), ``failed``, ``cancelled``, or, never
            submitted, ``missing``, ``interrupted`` or ``killed``.
        task: Its latest task in SLURM.
        reason: Of a job that failed, one line.
    """

    word: str
    task: str | None
    reason: str = ""

    @property
    def to_submit(self) -> bool:
        """Whether it is neither done nor in the queue."""
        return self.word != "done" and self.word not in _AT_WORK


def standings(sweep: Sweep, record: Record, queue: Mapping[str, Task]) -> list[Standing]:
    """How each job stands, in the order of the sweep."""
    tasks = record.tasks()
    gone = {
        tasks[job.name]
        for number, job in enumerate(sweep.jobs)
        if not sweep.states[number].finished and job.name in tasks and tasks[job.name] not in queue
    }
    states = {number: task.state for number, task in queue.items()} | slurm_queue.ended(gone)
    for number, job in enumerate(sweep.jobs):  # its folder was read before the queue, and may say more by now
        if not sweep.states[number].finished and job.name in tasks and states.get(tasks[job.name]) not in ACTIVE:
            sweep.look(number)
    return [_standing(sweep, number, tasks.get(job.name), states) for number, job in enumerate(sweep.jobs)]


def counts(found: list[Standing]) -> Counter[str]:
    """Jobs by word."""
    return Counter(one.word for one in found)


def _standing(sweep: Sweep, number: int, task: str | None, states: Mapping[str, str]) -> Standing:
    status, state = sweep.states[number].status, states.get(task or "")
    if status == run_folder.FINISHED:
        return Standing("done", task)
    if state in PENDING:
        return Standing("pending" if status in (MISSING, "failed") else "requeued", task)
    if state in slurm_queue.RUNNING or status == run_folder.RUNNING:
        return Standing("running", task)
    if task is None:
        return Standing(status, None, sweep.states[number].reason)
    if state == "CANCELLED" or (status == "interrupted" and state not in _WORDS):
        return Standing("cancelled", task)
    return Standing("failed", task, _reason(sweep, number, task, state))


def _reason(sweep: Sweep, number: int, task: str, state: str | None) -> str:
    """Why a job failed, in one line."""
    folder = sweep.folder_of(number)
    if state in _WORDS:
        return _WORDS[state]
    if sweep.states[number].reason:
        return sweep.states[number].reason
    if (folder / OUTPUT).exists():
        return sweep.look(number, 1).reason
    log = log_of(sweep.folder, task)
    if log.exists():
        return f"it did not start; see {log}"
    return f"it did not start, and wrote no log: do the compute nodes see {sweep.folder}?"


def log_of(folder: Path, task: str) -> Path:
    """What a task prints before and after its job."""
    return folder / LOGS / f"{task}_0_log.out"
