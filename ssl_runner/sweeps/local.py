"""The launcher for one machine: several jobs at once, a process each."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Literal

from ssl_runner.errors import InvalidValue
from ssl_runner.sweeps import forked, resources
from ssl_runner.sweeps.sweep import OUTPUT, Sweep


class Process:
    """A job in a process of this machine.

    Args:
        number: The job's.
        process: Forked from our server, or an interpreter of its own.
        gpus: The GPUs that it occupies.
        free: The launcher's free GPUs, which take them back.
    """

    ours = True

    def __init__(
        self, number: int, process: BaseProcess | subprocess.Popen[bytes], gpus: list[str], free: list[str]
    ) -> None:
        self.number, self.process, self.gpus, self.free = number, process, gpus, free

    def ended(self) -> int | None:
        code = self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode
        if code is not None:
            self.free += self.gpus
        return code

    def stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


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

    detached = False

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
        self.free = [gpu for gpu in self.gpus for _ in range(jobs_per_gpu)]

    def slots(self, sweep: Sweep) -> int:
        """As many as asked for, as there are GPUs or cores, and as fit into memory by the estimate of a step."""
        cores = resources.cores() // self.processes
        slots = len(self.gpus) * self.jobs_per_gpu // self.gpus_per_job if self.gpus_per_job else cores
        if isinstance(self.jobs, int):
            slots = min(self.jobs, slots) if self.gpus_per_job else self.jobs
        free = resources.memory_available()
        if free is not None:
            slots = min(slots, free // (self.processes * resources.BASE_BYTES + (sweep.job_bytes or 0)))
        return max(1, slots)

    @contextlib.contextmanager
    def opened(self, sweep: Sweep) -> Iterator[None]:
        """Shares the cores out, and starts the server that jobs are forked from."""
        at_once = min(self.slots(sweep), max(1, len(sweep.unfinished) + sweep.to_come))
        shared = max(1, resources.cores() // (at_once * self.processes))
        self.job_threads = shared if self.threads == "auto" else self.threads
        self.code = resources.code_stamp()
        self.forks = forked.possible(self.gpus) and self.processes == 1
        if self.forks and (sweep.unfinished or sweep.to_come):
            forked.prepare()
        yield

    def start(self, sweep: Sweep, number: int) -> Process:
        folder = sweep.folder_of(number)
        gpus, self.free[: self.gpus_per_job] = self.free[: self.gpus_per_job], []
        environment = dict(os.environ) | {"OMP_NUM_THREADS": str(self.job_threads)}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)  # none for gpus_per_job=0
        arguments = ["--job", str(folder)]
        if self.forks and resources.code_stamp() == self.code:  # the server has imported the code of the start
            with contextlib.suppress(OSError, EOFError):  # the server was killed
                return Process(number, forked.start(arguments, environment, folder / OUTPUT), gpus, self.free)
        words = [sys.executable, "-m"]
        if self.processes > 1:
            words += ["torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}", "-m"]
        with (folder / OUTPUT).open("wb") as output:
            process = subprocess.Popen(
                [*words, "ssl_runner.train", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                preexec_fn=forked.end_with_parent,
            )
        return Process(number, process, gpus, self.free)
