"""The launcher for SLURM, through submitit: one array of jobs, which outlive the command."""

import contextlib
import io
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from ssl_runner.errors import InvalidValue
from ssl_runner.runtime.console import Console
from ssl_runner.sweeps.slurm import keys as slurm_keys
from ssl_runner.sweeps.slurm import queue as slurm_queue
from ssl_runner.sweeps.slurm.queue import Queue
from ssl_runner.sweeps.slurm.record import Record
from ssl_runner.sweeps.slurm.state import LOGS, Standing, counts, standings
from ssl_runner.sweeps.slurm.task import Task
from ssl_runner.sweeps.sweep import OUTPUT, Sweep


class Submitted:
    """A job in SLURM's hands, of a command that waits for it.

    Args:
        number: The job's.
        task: Its SLURM task.
        queue: Asked for all jobs together.
    """

    ours = True

    def __init__(self, number: int, task: str, queue: Queue) -> None:
        self.number, self.task, self.queue = number, task, queue
        self.stopped = False

    def ended(self) -> int | None:
        found = self.queue.now().get(self.task)
        if found is None:  # squeue forgets tasks after some minutes; the job's folder shows what became of it
            return 0
        if found.active:
            return None
        return {"COMPLETED": 0, "CANCELLED": -signal.SIGTERM}.get(found.state, 1)

    def stop(self) -> None:
        """Cancel the job once; SLURM lets it save first."""
        if not self.stopped:
            self.stopped = True
            slurm_queue.cancel(self.task)

    def kill(self) -> None:
        """Cancel the job; SLURM ends it within half a minute."""
        slurm_queue.cancel(self.task)


class Slurm:
    """Submits the jobs of a sweep to SLURM.

    Args:
        partition: None: the cluster's own, as for account and qos.
        account: To charge.
        qos: Quality of service.
        minutes: Time limit. A job that reaches it saves, waits in the queue again and goes on.
        seconds_to_save: Before the time limit.
        requeues: Times that a job may reach the time limit.
        cpus_per_job: Processor cores of each job.
        memory_per_job: GB of each job; None: the cluster's own.
        gpus_per_job: GPUs of each job.
        jobs: At once.
        processes: Of each job; several share its batch, under torchrun.
        threads: CPU threads of each process; ``auto``: the job's cores shared out between them.
        setup: Shell commands before a job.
        sbatch: Further parameters of sbatch: ``{constraint: a100}``.
        submit: False: only show how the jobs stand.
    """

    detached = True

    def __init__(
        self,
        partition: str | None,
        account: str | None,
        qos: str | None,
        minutes: int,
        seconds_to_save: int,
        requeues: int,
        cpus_per_job: int,
        memory_per_job: float | None,
        gpus_per_job: int,
        jobs: int,
        processes: int,
        threads: int | Literal["auto"],
        setup: Sequence[str],
        sbatch: Mapping[str, Any],
        submit: bool,
    ) -> None:
        slurm_keys.refuse_low(
            minutes=(minutes, 1),
            seconds_to_save=(seconds_to_save, 1),
            requeues=(requeues, 0),
            cpus_per_job=(cpus_per_job, 1),
            gpus_per_job=(gpus_per_job, 0),
            jobs=(jobs, 1),
            processes=(processes, 1),
            threads=(threads, 1),
        )
        if memory_per_job is not None and memory_per_job <= 0:
            raise InvalidValue(
                f"hydra.launcher.memory_per_job={memory_per_job}; it must be positive, in GB, or null for the cluster's"
            )
        if 60 * minutes <= seconds_to_save:
            raise InvalidValue(
                f"hydra.launcher.minutes={minutes}, seconds_to_save={seconds_to_save}: a job would save as soon as it "
                "starts; raise minutes"
            )
        if 0 < gpus_per_job < processes:
            raise InvalidValue(
                f"hydra.launcher.gpus_per_job={gpus_per_job}, processes={processes}; each process needs a GPU: make "
                "them equal, or gpus_per_job=0 for the CPU"
            )
        slurm_keys.refuse_ours(sbatch)
        self.jobs, self.requeues, self.may_submit = jobs, requeues, submit
        self.processes, self.threads = processes, max(1, cpus_per_job // processes) if threads == "auto" else threads
        extra = {key.replace("_", "-"): value for key, value in sbatch.items() if value not in (None, False)}
        given: dict[str, Any] = {
            "partition": partition,
            "account": account,
            "qos": qos,
            "time": minutes,
            "signal_delay_s": seconds_to_save,
            "cpus_per_task": cpus_per_job,
            "mem": None if memory_per_job is None else f"{round(memory_per_job * 1024)}M",
            "gpus_per_node": gpus_per_job or None,
            "array_parallelism": jobs,
            "setup": list(setup) or None,
            "stderr_to_stdout": True,
            # since SLURM 22.05, srun does not take the number from sbatch
            "srun_args": [f"--cpus-per-task={cpus_per_job}"],
            "additional_parameters": {"requeue": True, **extra},
        }
        self.parameters = {key: value for key, value in given.items() if value is not None}
        slurm_keys.refuse_without_slurm()
        self.queue = Queue()

    def submit(self, sweep: Sweep, console: Console) -> int:
        """Submit what is neither done nor in the queue, print how all jobs stand, and return at once.

        Returns:
            Exit code: 0 if all jobs are done, or wait or run now, as after any submission; 1 if jobs have failed and
            were not submitted again, because of ``submit=false``.

        Raises:
            InvalidValue: SLURM refused the jobs.
            ClusterSilent: SLURM does not answer.
        """
        record = Record(sweep.folder)
        self.queue.refresh()
        record.settle(self.queue.tasks)
        found = standings(sweep, record, self.queue.tasks)
        left = [number for number, one in enumerate(found) if one.to_submit] if self.may_submit else []
        sent = self._send(sweep, record, left) if left else []
        _report(sweep, found, sent, console)
        return 1 if not self.may_submit and any(one.word == "failed" for one in found) else 0

    def slots(self, sweep: Sweep) -> int:
        return self.jobs

    @contextlib.contextmanager
    def opened(self, sweep: Sweep) -> Iterator[None]:
        """Reads which jobs an earlier command has submitted."""
        self.record = Record(sweep.folder)
        self.queue.refresh()
        self.record.settle(self.queue.tasks)
        yield

    def start(self, sweep: Sweep, number: int) -> Submitted:
        """Submit a job by itself; one that is in the queue already is not submitted again, only waited for."""
        before = self.record.tasks().get(sweep.jobs[number].name)
        known = self.queue.now().get(before or "")
        if before is not None and known is not None and known.active:
            return Submitted(number, before, self.queue)
        self._send(sweep, self.record, [number])
        self.queue.refresh()
        return Submitted(number, self.record.tasks()[sweep.jobs[number].name], self.queue)

    def _send(self, sweep: Sweep, record: Record, numbers: Sequence[int]) -> list[str]:
        """Submit jobs as an array, or as several where the cluster takes only smaller ones; their ids."""
        most = slurm_queue.largest_array() if len(numbers) > 1 else 1
        parts = [numbers[first : first + most] for first in range(0, len(numbers), most)]
        for number in numbers:
            sweep.write_job(number)
        sent = []
        for part in parts:
            begun = record.begin([sweep.jobs[number].name for number in part])
            at_once = max(1, self.jobs // len(parts))
            folders = [sweep.folder_of(number) for number in part]
            tasks = [Task(str(one), str(one / OUTPUT), self.processes, self.threads) for one in folders]
            try:
                begun.id = self._sbatch(sweep, begun.name, at_once, tasks)
            except InvalidValue:
                record.drop(begun)
                raise
            record.write()
            sent.append(begun.id)
        return sent

    def _sbatch(self, sweep: Sweep, name: str, at_once: int, tasks: list[Task]) -> str:
        """Submit tasks as one array; its id."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError

        executor = SlurmExecutor(sweep.folder / LOGS, max_num_timeout=self.requeues)
        executor.update_parameters(**self.parameters | {"job_name": name, "array_parallelism": at_once})
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):  # submitit prints the message too
                made = executor.submit_array(tasks)
        except FailedJobError as error:
            lines = str(error).strip().splitlines() or ["no message"]
            raise InvalidValue(f"SLURM refused the jobs: {'; '.join(lines)}. Change hydra.launcher's keys") from None
        return made[0].job_id.partition("_")[0]


def _report(sweep: Sweep, found: list[Standing], sent: Sequence[str], console: Console) -> None:
    """A line for each state, and the reason of each failure."""
    console.tell("sweep", f"{len(sweep.jobs)} jobs in {sweep.folder}")
    again = ", submitted now" if sent else ""
    for word, count in counts(found).items():
        console.tell(word, f"{count}{again if Standing(word, None).to_submit else ''}")
    for number, one in enumerate(found):
        if one.word == "failed":
            console.tell("failed", f"{sweep.jobs[number].name}: {one.reason or 'see its folder'}")
    for number in sent:
        console.tell("submitted", f"as {number}; see them with squeue -j {number}, end them with scancel {number}")
    if any(one.word != "done" for one in found):
        console.print(f"the same command shows how they stand: {sweep.manifest.command}", soft_wrap=True)
