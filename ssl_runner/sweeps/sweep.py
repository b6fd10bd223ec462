"""A sweep in its folder: the manifest, and how each job stands."""

import contextlib
import functools
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl_runner.errors import FolderInUse, InvalidValue
from ssl_runner.runs import run_folder
from ssl_runner.runtime.atomic_write import write_atomically
from ssl_runner.runtime.file_lock import locked
from ssl_runner.sweeps import columns, manifest
from ssl_runner.sweeps.manifest import Job, Manifest
from ssl_runner.sweeps.state import MISSING, State, finished_runs, state

JOB, OUTPUT, LOCK = "job.json", "output.log", ".sweep.lock"


class Sweep:
    """The jobs of a manifest, and what has become of them.

    Attributes:
        folder: Of the sweep; each job has a folder below it.
        jobs: In the order of the command.
        states: Of each job, as it was last looked at.
        job_bytes: Memory of a job by the estimate, the greatest of those that are known; None where none is.
        to_come: Jobs that a search has yet to add.

    Args:
        folder: Of the sweep.
        written: Its manifest.
        outputs: Folder of all runs: what is finished there counts. None where it does not.
        job_bytes: See above.
        searched: The keys that a search varies; None where all jobs are known beforehand.
    """

    def __init__(
        self,
        folder: Path,
        written: Manifest,
        outputs: Path | None,
        job_bytes: int | None = None,
        searched: Sequence[str] | None = None,
    ) -> None:
        self.searched = searched
        self.folder, self.manifest, self.job_bytes = folder, written, job_bytes
        self.jobs: list[Job] = written.jobs
        self.to_come = 0
        self.elsewhere = {} if outputs is None else finished_runs(outputs)
        self.states: list[State] = [state(job, self.folder_of(n), self.elsewhere) for n, job in enumerate(self.jobs)]

    @functools.cached_property
    def columns(self) -> list[str]:
        """The keys that vary between the jobs, which tables show."""
        return columns.columns([job.config for job in self.jobs]) if self.searched is None else list(self.searched)

    def folder_of(self, number: int) -> Path:
        """The run folder of a job."""
        return self.folder / self.jobs[number].name

    def add(self, job: Job) -> int:
        """Write a further job into the manifest; returns its number."""
        self.jobs.append(job)  # which are the manifest's
        self.manifest.write(self.folder)
        self.states.append(state(job, self.folder_of(len(self.jobs) - 1), self.elsewhere))
        return len(self.jobs) - 1

    def look(self, number: int, code: int | None = None) -> State:
        """How a job stands by now.

        Args:
            code: The exit code of its process, if that has ended.
        """
        found = state(self.jobs[number], self.folder_of(number), {})
        if code == -signal.SIGTERM and not found.finished:  # stopped before it could say so
            found = State("interrupted", found.folder)
        elif code not in (None, 0) and not found.finished:
            found = State(_status(found), found.folder, _reason(found, self.folder_of(number), code))
        self.states[number] = found
        return found

    def write_job(self, number: int) -> None:
        """Write the file that a job's process starts from, into its run folder."""
        folder, job = self.folder_of(number), self.jobs[number]
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"overrides": job.overrides, "config": job.config, "columns": self.columns})
        write_atomically(folder / JOB, lambda path: path.write_text(text, encoding="utf-8"))

    @property
    def unfinished(self) -> list[int]:
        """The numbers of the jobs that are not finished."""
        return [number for number, one in enumerate(self.states) if not one.finished]

    @property
    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        statuses = [one.status for one in self.states]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}


def _status(found: State) -> str:
    return "failed" if found.status in (MISSING, run_folder.RUNNING, "killed") else found.status


def _reason(found: State, folder: Path, code: int) -> str:
    """Why a process ended that did not finish its job, in one line."""
    if code < 0:
        name = signal.Signals(-code).name
        likely = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return f"ended by {name}{likely}"
    if found.reason:
        return found.reason
    with contextlib.suppress(OSError):
        lines = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return f"exit code {code}"


def read_job(folder: Path) -> dict:
    """The file that `Sweep.write_job` wrote.

    Raises:
        InvalidValue: There is none, or it is damaged.
    """
    path = folder / JOB
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidValue(f"--job: {path} cannot be read ({error}); give the sweep's command again") from None


def columns_of(folder: Path) -> list[str] | None:
    """The keys that vary in the sweep that started the run in a folder; None for a run of its own."""
    return read_job(folder).get("columns") or None if (folder / JOB).is_file() else None


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Inside, no other command works on the sweep.

    Raises:
        FolderInUse: One does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, wait=False))
        except BlockingIOError:
            raise FolderInUse(
                f"the sweep in {folder} is at work in another process; wait for it, or stop that one"
            ) from None
        yield


def begin(folder: Path, asked: Manifest, outputs: Path | None, job_bytes: int | None) -> Sweep:
    """The sweep in its folder, which is held: with the manifest that is there if its jobs are the same, else a new one.

    Raises:
        InvalidValue: The folder has a manifest of other jobs, a damaged one, or one of another version.
    """
    if (folder / manifest.FILE).exists():
        written = manifest.read(folder)
        if written.content != asked.content:
            raise InvalidValue(
                f"{folder} holds another sweep ({len(written.jobs)} jobs, {written.created}); give another "
                "hydra.sweep.dir, or leave it out"
            )
    else:
        asked.write(folder)
        written = asked
    return Sweep(folder, written, outputs, job_bytes)
