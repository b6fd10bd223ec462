"""The jobs of a command line: their overrides, what Hydra says of each, and the folders that they work in."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from ssl_runner.cli.compose import Composer
from ssl_runner.cli.hydra_private import has_basic_sweeper, hydra_config, split


def is_sweep(composer: Composer, overrides: Sequence[str], multirun: bool) -> bool:
    """Whether the command line is a sweep: its flag says so, or a config."""
    if multirun:
        return True
    # the very composition that follows; what fails here may be a sweep whose file says so
    with contextlib.suppress(HydraException, OmegaConfBaseException):
        return composer.compose(overrides).hydra.mode == RunMode.MULTIRUN
    return composer.compose(overrides, RunMode.MULTIRUN).hydra.mode == RunMode.MULTIRUN


def jobs(composer: Composer, overrides: Sequence[str], multirun: bool) -> list[list[str]] | None:
    """Overrides of every job of a sweep; None if this is no sweep.

    Sweepers other than Hydra's own choose as they go: there, the jobs are none.
    """
    if not is_sweep(composer, overrides, multirun):
        return None
    base = composer.compose(overrides, RunMode.MULTIRUN)
    if not has_basic_sweeper(base):
        return []
    asked = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items()]
    given = as_written(base.hydra.overrides)
    return [[*given["hydra"], *job] for job in split(composer.parse([*asked, *given["task"]]))]


@contextlib.contextmanager
def as_job(config: DictConfig, job: DictConfig | None, number: int) -> Iterator[None]:
    """Inside, what a config says of ``${hydra:...}`` and ``${hydra....}`` leads to its job.

    Args:
        config: With the node ``hydra``.
        job: The node of the job at hand; None before there is one.
        number: Of the job that it will be.
    """
    with read_write(config), open_dict(config):
        if job is not None:
            config.hydra = job
        else:
            config.hydra.job.num, config.hydra.job.id = number, str(number)
            config.hydra.runtime.output_dir = "."
    with hydra_config(config):
        yield


def as_written(overrides: DictConfig) -> dict[str, list[str]]:
    """Hydra's node of overrides, ``hydra`` and ``task``: an interpolation in a word is the word's own affair."""
    found: Any = OmegaConf.to_container(overrides, resolve=False)
    return found


def shared_folders(composer: Composer, jobs: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Folders of a sweep that several of its jobs would work in, with these jobs' numbers."""
    found: dict[str, list[int]] = {}
    first = None
    for number, job in enumerate(jobs):
        config = composer.compose(job)
        if first is not None:  # one time of day and one random name for all
            OmegaConf.copy_cache(from_config=first, to_config=config)
        with as_job(config, None, number):
            folder = os.path.join(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))
        found.setdefault(os.path.normpath(folder), []).append(number)
        first = first or config
    return {folder: numbers for folder, numbers in found.items() if len(numbers) > 1}
