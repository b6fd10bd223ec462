"""The launcher for one machine: several jobs at once, a process each."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

from ssl_runner.errors import InvalidValue
from ssl_runner.runs import run_folder
from ssl_runner.runtime.signals import Stop, stop_signals
from ssl_runner.sweeps import resources
from ssl_runner.sweeps.sweep import OUTPUT, Sweep
from ssl_runner.sweeps.table import Table

PULSE = 0.1  # seconds between two looks at the processes
PATIENCE = 600.0  # seconds that jobs have to save and end once the sweep was stopped


@dataclass
class Working:
    """A job that is at work.

    Attributes:
        number: Of the job.
        process: None for one that another process runs.
        gpus: That it holds.
        output: Takes what it prints.
    """

    number: int
    process: subprocess.Popen[bytes] | None
    gpus: list[str]
    output: IO[bytes] | None = None
    began: float = field(default_factory=time.monotonic)


class Local:
    """Runs the jobs of a sweep on this machine.

    Args:
        jobs: At once; ``auto``: one for each GPU and ``jobs_per_gpu``, else one for each core, but no more than fit
            into memory.
        gpus_per_job: GPUs of each job; ``auto``: one where there are any.
        jobs_per_gpu: Jobs that share a GPU; only with ``gpus_per_job`` 1.
        processes: Of each job; several share its batch, under torchrun.
        threads: CPU threads of each process; ``auto``: the cores shared out between them.
    """

    def __init__(
        self,
        jobs: int | Literal["auto"],
        gpus_per_job: int | Literal["auto"],
        jobs_per_gpu: int,
        processes: int,
        threads: int | Literal["auto"],
    ) -> None:
        for name, value, least in (
            ("jobs", jobs, 1),
            ("gpus_per_job", gpus_per_job, 0),
            ("jobs_per_gpu", jobs_per_gpu, 1),
            ("processes", processes, 1),
            ("threads", threads, 1),
        ):
            if isinstance(value, int) and value < least:
                raise InvalidValue(f"hydra.launcher.{name}={value}; it must be at least {least}")
        self.gpus = resources.gpus()
        self.gpus_per_job = (1 if self.gpus else 0) if gpus_per_job == "auto" else gpus_per_job
        if self.gpus_per_job > len(self.gpus):
            raise InvalidValue(
                f"hydra.launcher.gpus_per_job={gpus_per_job}, but this machine has {len(self.gpus)} GPUs; lower it, "
                "or 0 for the CPU"
            )
        if jobs_per_gpu > 1 and self.gpus_per_job != 1:
            raise InvalidValue(
                f"hydra.launcher.jobs_per_gpu={jobs_per_gpu}, gpus_per_job={self.gpus_per_job}; jobs share a GPU only "
                "where each has one"
            )
        self.jobs, self.jobs_per_gpu, self.processes, self.threads = jobs, jobs_per_gpu, processes, threads

    def at_once(self, job_bytes: int | None) -> int:
        """Jobs that run at a time.

        Args:
            job_bytes: Memory of a job, by the estimate; None where it is not known.
        """
        slots = len(self.gpus) // self.gpus_per_job * self.jobs_per_gpu if self.gpus_per_job else resources.cores()
        wanted = slots // (1 if self.gpus_per_job else self.processes)
        if isinstance(self.jobs, int):
            wanted = min(self.jobs, slots) if self.gpus_per_job else self.jobs
        free = resources.memory_available()
        if free is not None:
            one = self.processes * resources.BASE_BYTES + (job_bytes or 0)
            wanted = min(wanted, free // one)
        return max(1, wanted)

    def run(self, sweep: Sweep, table: Table) -> None:
        """Run what is left of a sweep. Returns when all jobs have ended, or have saved after a signal.

        Raises:
            KeyboardInterrupt: A signal asked the sweep to end.
        """
        left = [number for number in range(len(sweep.jobs)) if not sweep.states[number].finished]
        slots = max(1, min(self.at_once(sweep.job_bytes), len(left)))
        shared = max(1, resources.cores() // (slots * self.processes))
        self.job_threads = shared if self.threads == "auto" else self.threads
        free = [gpu for gpu in self.gpus for _ in range(self.jobs_per_gpu)]
        working: list[Working] = []
        with stop_signals() as stop, table.shown(sweep):
            try:
                while working or (left and not stop.requested):
                    while left and len(working) < slots and not stop.requested:
                        gpus, free = free[: self.gpus_per_job], free[self.gpus_per_job :]
                        working.append(self._start(sweep, left.pop(0), gpus))
                        table.started(sweep, working[-1].number)
                    time.sleep(PULSE)
                    for one in [one for one in working if self._ended(sweep, one)]:
                        working.remove(one)
                        free += one.gpus
                        table.ended(sweep, one.number)
                    table.refresh(sweep, [one.number for one in working])
                    if stop.requested:
                        self._stop(working, stop)
            finally:
                _end(working)
        if stop.requested:
            raise KeyboardInterrupt

    def _start(self, sweep: Sweep, number: int, gpus: Sequence[str]) -> Working:
        """Start a job, unless another process is at it already."""
        folder = sweep.folder_of(number)
        if sweep.states[number].status == run_folder.RUNNING:
            return Working(number, None, list(gpus))
        sweep.write_job(number)
        words = [sys.executable, "-m"]
        if self.processes > 1:
            words += ["torch.distributed.run", f"--nproc-per-node={self.processes}", "--master-addr=127.0.0.1"]
            words += ["--master-port=0", "-m"]
        environment = dict(os.environ) | {"OMP_NUM_THREADS": str(self.job_threads)}
        if self.gpus_per_job:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        output = (folder / OUTPUT).open("wb")
        process = subprocess.Popen(
            [*words, "ssl_runner.train", "--job", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_die_with_parent if sys.platform.startswith("linux") else None,
        )
        return Working(number, process, list(gpus), output)

    def _ended(self, sweep: Sweep, one: Working) -> bool:
        """Whether a job has ended; then its state is read anew."""
        if one.process is None:
            state = sweep.look(one.number)
            return state.status != run_folder.RUNNING
        code = one.process.poll()
        if code is None:
            return False
        assert one.output is not None
        one.output.close()
        sweep.look(one.number, code)
        return True

    def _stop(self, working: Sequence[Working], stop: Stop) -> None:
        """Ask jobs to save and end, once."""
        for one in working:
            if one.process is not None and not getattr(stop, "passed_on", False):
                with contextlib.suppress(ProcessLookupError):
                    one.process.send_signal(signal.SIGTERM)
        stop.passed_on = True  # type: ignore[attr-defined]


def _end(working: Sequence[Working]) -> None:
    """Where the launcher itself fails, or is asked a second time: what is at work ends with it."""
    for one in working:
        if one.process is not None and one.process.poll() is None:
            one.process.terminate()
    deadline = time.monotonic() + PATIENCE
    for one in working:
        if one.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(max(0.0, deadline - time.monotonic()))


def _die_with_parent() -> None:
    """In the child, before it starts: SIGTERM, on which it saves and ends, when the launcher is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
