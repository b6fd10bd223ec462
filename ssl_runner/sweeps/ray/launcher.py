"""The launcher for a Ray cluster: one task for each job, on whichever machine has room for it."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ssl_runner.errors import InvalidValue
from ssl_runner.sweeps import resources
from ssl_runner.sweeps.ray import node as on_node
from ssl_runner.sweeps.ray.cluster import connect, last_line
from ssl_runner.sweeps.sweep import OUTPUT, Sweep

LOST_NODES = 10  # that a job survives; a job whose own process fails is not run again


class Task:
    """A job in a task of Ray.

    Args:
        number: The job's.
        result: Ray's reference to what the task will return.
        output: The file that takes the reason why a job could not run.
    """

    ours = True

    def __init__(self, number: int, result: Any, output: Path) -> None:
        self.number, self.result, self.output = number, result, output
        self.stopped = False

    def ended(self) -> int | None:
        import ray

        if not ray.wait([self.result], timeout=0)[0]:
            return None
        try:
            found = ray.get(self.result)
        except Exception as error:  # RayError, or one that the node raised before our function ran
            found = f"Ray could not run the job: {last_line(error)}"
        if self.stopped:  # not failed: the folder says how far it came
            return 0
        if isinstance(found, int):
            return found
        self.output.write_text(f"{found}\n", encoding="utf-8")
        return 1

    def stop(self) -> None:
        if not self.stopped:  # a search asks at every look
            self._cancel(force=False)

    def kill(self) -> None:
        self._cancel(force=True)

    def _cancel(self, force: bool) -> None:
        import ray

        self.stopped = True
        ray.cancel(self.result, force=force)


class Ray:
    """Runs the jobs of a sweep on the machines of a Ray cluster, which share the sweep's folder.

    Args:
        address: Of the cluster: ``auto``: the one of this machine; or ``HOST:PORT`` of its head. None: a cluster is
            started on this machine, and ends with the sweep.
        jobs: At once; ``auto``: as many as the cluster has room for when the sweep starts. Further ones wait in Ray's
            queue until a node has room, or joins.
        cpus_per_job: CPUs of each job.
        gpus_per_job: GPUs of each job; ``auto``: one where there are any. Jobs share a GPU with a value such as 0.5.
        processes: Of each job; several share its batch, under torchrun.
        threads: CPU threads of each process; ``auto``: the job's CPUs shared out between its processes.
        runtime_env: Ray's, of the workers that run jobs.
    """

    detached = False

    def __init__(
        self,
        address: str | None,
        jobs: int | Literal["auto"],
        cpus_per_job: int,
        gpus_per_job: float | Literal["auto"],
        processes: int,
        threads: int | Literal["auto"],
        runtime_env: dict[str, Any] | None,
    ) -> None:
        for name, value, least in (
            ("jobs", jobs, 1),
            ("cpus_per_job", cpus_per_job, 1),
            ("gpus_per_job", gpus_per_job, 0),
            ("processes", processes, 1),
            ("threads", threads, 1),
        ):
            if value == "auto" and name in ("jobs", "gpus_per_job", "threads"):
                continue
            if not isinstance(value, int | float) or value < least or (value % 1 and name != "gpus_per_job"):
                kind = "a number" if name == "gpus_per_job" else "a whole number"
                raise InvalidValue(f"hydra.launcher.{name}={value}; it must be {kind}, at least {least}")
        if gpus_per_job != "auto" and gpus_per_job > 1 and gpus_per_job % 1:
            raise InvalidValue(f"hydra.launcher.gpus_per_job={gpus_per_job}; above 1 it must be a whole number")
        self.jobs, self.cpus, self.processes = jobs, cpus_per_job, processes
        self.threads = max(1, cpus_per_job // processes) if threads == "auto" else threads
        self.working_folder = None if "working_dir" in (runtime_env or {}) else Path.cwd()
        self.nodes = connect(address, runtime_env)
        most = max((node.get("GPU", 0) for node in self.nodes), default=0)
        self.gpus = min(1, most) if gpus_per_job == "auto" else gpus_per_job
        self.fitting = _fitting(self.nodes, {"CPU": self.cpus, "GPU": self.gpus})

    def slots(self, sweep: Sweep) -> int:
        """As many as asked for; else as the nodes have CPUs, GPUs and, by the estimate of a step, memory for."""
        if isinstance(self.jobs, int):
            return self.jobs
        needs = {"CPU": self.cpus, "GPU": self.gpus, "memory": self._memory(sweep)}
        return max(1, sum(_room(node, needs) for node in self.fitting))

    def _memory(self, sweep: Sweep) -> int:
        """Bytes to reserve for a job: never more than a node has, since the job would wait for ever."""
        needed = self.processes * resources.BASE_BYTES + (sweep.job_bytes or 0)
        return min(needed, int(max(node.get("memory", 0) for node in self.fitting)))

    @contextlib.contextmanager
    def opened(self, sweep: Sweep) -> Iterator[None]:
        """Ends the connection, and the cluster if it was started for this sweep."""
        import ray

        settings = {name: value for name, value in os.environ.items() if _is_ours(name)}
        self.how = on_node.How(self.processes, self.threads, self.gpus > 0, settings, self.working_folder)
        self.function = ray.remote(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            memory=self._memory(sweep),
            max_retries=LOST_NODES,
            retry_exceptions=False,
            scheduling_strategy="SPREAD",
        )(on_node.run_job)
        try:
            yield
        finally:
            ray.shutdown()

    def start(self, sweep: Sweep, number: int) -> Task:
        folder = sweep.folder_of(number)
        result = self.function.options(name=sweep.jobs[number].name).remote(folder, self.how)
        return Task(number, result, folder / OUTPUT)


def _is_ours(name: str) -> bool:
    """Whether a job needs an environment variable of the sweep's command."""
    return name == "PYTHONPATH" or name.startswith("SSL_RUNNER_")


def _fitting(nodes: list[dict[str, float]], needs: Mapping[str, float]) -> list[dict[str, float]]:
    """The nodes that have enough for a job.

    Raises:
        InvalidValue: None has.
    """
    for resource, key in (("CPU", "cpus_per_job"), ("GPU", "gpus_per_job")):
        most = max((node.get(resource, 0) for node in nodes), default=0)
        if needs[resource] > most:
            remedy = "lower it" if resource == "CPU" else "lower it, or 0 for the CPU"
            raise InvalidValue(
                f"hydra.launcher.{key}={needs[resource]:g}, but no node of the Ray cluster has more than {most:g} "
                f"{resource}s; {remedy}"
            )
    found = [node for node in nodes if _room(node, needs)]
    if not found:
        have = "; ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
        raise InvalidValue(
            f"hydra.launcher.cpus_per_job={needs['CPU']:g}, gpus_per_job={needs['GPU']:g}: no node of the Ray cluster "
            f"has both (CPUs and GPUs of its nodes: {have}); lower one of them"
        )
    return found


def _room(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many jobs a node has room for."""
    return int(min(node.get(name, 0) // need for name, need in needs.items() if need))
