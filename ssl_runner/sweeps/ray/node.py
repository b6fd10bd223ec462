"""Runs a job as a process on a machine of a cluster, inside a task that a launcher's scheduler started there."""

import os
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ssl_runner.runs import run_folder
from ssl_runner.runtime.file_lock import is_held
from ssl_runner.runtime.signals import Stop
from ssl_runner.sweeps import forked
from ssl_runner.sweeps.sweep import JOB, OUTPUT

PULSE = 0.1  # seconds between two looks at the process
PATIENCE = 120.0  # seconds for a lost node's process to save; a file server forgets a lost node's lock after some 90


@dataclass(frozen=True)
class How:
    """How a job's process is started.

    Attributes:
        processes: Their number; several share a batch, under torchrun.
        threads: CPU threads of each.
        gpus: Whether the job uses the GPUs that the scheduler has set apart for it, or none.
        settings: Environment variables of the sweep's command; the node's own come before them.
        working_folder: Of the sweep's command, used where the node has it. None: the task's own.
    """

    processes: int
    threads: int
    gpus: bool
    settings: Mapping[str, str]
    working_folder: Path | None


def run_job(folder: Path, how: How) -> int | str:
    """Run or resume the job in a run folder. An interruption (SIGINT) makes it save and end.

    Returns:
        The exit code of its process, for a signal minus its number; or the reason why none was started.
    """
    with _interruption() as stop:
        if not (folder / JOB).is_file():
            return (
                f"{socket.gethostname()} has no {folder / JOB}: a sweep's folder must be shared by all nodes; set "
                "hydra.sweep.dir, or SSL_RUNNER_OUTPUTS, to a shared folder"
            )
        until = time.monotonic() + PATIENCE
        while is_held(folder / run_folder.LOCK) and time.monotonic() < until and not stop.requested:
            time.sleep(PULSE)
        return 0 if stop.requested else _live(folder, how, stop)


def _live(folder: Path, how: How, stop: Stop) -> int:
    words = [sys.executable, "-m"]
    if how.processes > 1:
        words += ["torch.distributed.run", "--standalone", f"--nproc-per-node={how.processes}", "-m"]
    with (folder / OUTPUT).open("wb") as output:
        process = subprocess.Popen(
            [*words, "ssl_runner.train", "--job", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(how),
            cwd=how.working_folder if how.working_folder is not None and how.working_folder.is_dir() else None,
            preexec_fn=forked.end_with_parent,
        )
    try:
        passed_on = False
        while (code := process.poll()) is None:
            if stop.requested and not passed_on:
                passed_on = True
                process.terminate()
            time.sleep(PULSE)
        return code
    finally:
        if process.poll() is None:  # this task was ended by an exception; the process saves, and ends after it
            process.terminate()


def _environment(how: How) -> dict[str, str]:
    found = {**how.settings, **os.environ, "OMP_NUM_THREADS": str(how.threads)}
    if not how.gpus:
        found["CUDA_VISIBLE_DEVICES"] = ""
    code = str(Path(__file__).parents[2])
    installed = code in [*site.getsitepackages(), site.getusersitepackages()]
    paths = ["" if installed else code, os.environ.get("PYTHONPATH", ""), how.settings.get("PYTHONPATH", "")]
    return found | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


@contextmanager
def _interruption() -> Iterator[Stop]:
    """Inside, SIGINT is recorded. Any other signal is the scheduler's own: a task that it ends runs again elsewhere."""
    stop = Stop()

    def request(number: int, frame: object) -> None:
        stop.requested = True

    before = signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
