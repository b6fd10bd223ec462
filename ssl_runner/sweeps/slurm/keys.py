"""Refuses values of ``hydra.launcher`` that SLURM cannot take, before anything is written."""

import shutil
from collections.abc import Mapping
from typing import Any

from ssl_runner.errors import InvalidValue

_OURS = {  # parameters of sbatch that have a key of their own
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "time": "minutes",
    "signal": "seconds_to_save",
    "cpus-per-task": "cpus_per_job",
    "mem": "memory_per_job",
    "gpus-per-node": "gpus_per_job",
    "array": "jobs",
    "ntasks": "processes",
    "ntasks-per-node": "processes",
}
_FIXED = ("error", "job-name", "nodes", "open-mode", "output", "requeue")


def refuse_low(**given: tuple[int | str, int]) -> None:
    """Raises InvalidValue for a number below its least one.

    Args:
        given: For each key, the value and the least one. Words pass.
    """
    for name, (value, least) in given.items():
        if isinstance(value, int) and value < least:
            raise InvalidValue(f"hydra.launcher.{name}={value}; it must be at least {least}")


def refuse_ours(sbatch: Mapping[str, Any]) -> None:
    """Raises InvalidValue for a parameter of sbatch that has a key of its own, or belongs to the sweep."""
    for key in sbatch:
        plain = key.replace("_", "-")
        if plain in _OURS:
            raise InvalidValue(f"hydra.launcher.sbatch.{key}: write hydra.launcher.{_OURS[plain]} for it")
        if plain in _FIXED:
            raise InvalidValue(f"hydra.launcher.sbatch.{key}: the sweep sets it; leave it out")


def refuse_without_slurm() -> None:
    """Raises InvalidValue where submitit or SLURM's commands are missing."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise InvalidValue("hydra/launcher=slurm needs submitit: pip install 'ssl-runner[slurm]'") from None
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise InvalidValue(
            "hydra/launcher=slurm: there is no sbatch here; give the command on a machine of the cluster that submits "
            "jobs, or use hydra/launcher=local"
        )
