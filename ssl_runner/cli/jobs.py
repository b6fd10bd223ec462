"""The jobs of a command line: their overrides, Hydra's node for each, and the folders they work in."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from ssl_runner.cli.compose import Composer
from ssl_runner.cli.compose_errors import COMPOSITION_ERRORS, culprit
from ssl_runner.cli.hydra_private import has_basic_sweeper, hydra_config, split
from ssl_runner.cli.spaces import TARGET, Plan, read_plan
from ssl_runner.sweeps import forked, resources
from ssl_runner.sweeps.local import Local


def is_sweep(composer: Composer, overrides: Sequence[str], multirun: bool) -> bool:
    """Whether the command line is a sweep, because of its flag or a config file."""
    if multirun:
        return True
    # the same composition as the one that follows; if it fails, a file may still say that this is a sweep
    with contextlib.suppress(HydraException, OmegaConfBaseException):
        return composer.compose(overrides).hydra.mode == RunMode.MULTIRUN
    return composer.compose(overrides, RunMode.MULTIRUN).hydra.mode == RunMode.MULTIRUN


def jobs(composer: Composer, overrides: Sequence[str], multirun: bool) -> list[list[str]] | None:
    """The overrides of every job of a sweep, or None if this is not a sweep.

    A search chooses its jobs as it runs; the list has those at the ends of its spaces. For sweepers of others, which
    choose as they run too, the list is empty.
    """
    if not is_sweep(composer, overrides, multirun):
        return None
    if is_search(composer, overrides, multirun):
        return search_plan(composer, overrides).corners
    base = composer.compose(overrides, RunMode.MULTIRUN)
    if not has_basic_sweeper(base):
        return []
    given = as_written(base.hydra.overrides)
    typed = {override.key_or_group for override in composer.parse(given["task"])}
    params = [f"{key}={value}" for key, value in (base.hydra.sweeper.params or {}).items() if key not in typed]
    return [[*given["hydra"], *job] for job in split(composer.parse([*params, *given["task"]]))]


def for_jobs(composer: Composer, overrides: list[str], multirun: bool) -> list[str]:
    """The overrides of a sweep over options, such that a value may belong to what only its jobs choose.

    Hydra composes the sweep itself without the options that differ between jobs, and would refuse ``dataset.root=PATH``
    beside ``experiment=a,b`` if the default dataset has no such key, and options of groups inside others. As a sweep
    over one value, ``choice(PATH)``, it is left to the jobs, whose check refuses what none of them has.
    """
    words = list(overrides)
    while True:
        try:
            if not is_sweep(composer, words, multirun):
                return overrides
            base = composer.compose(words, RunMode.MULTIRUN)
            break
        except COMPOSITION_ERRORS as error:
            word = culprit(composer, error, words)
            alone = None if word is None else _alone(composer, word)
            if word is None or alone is None:
                return overrides
            words[words.index(word)] = alone
    if words == overrides or not has_basic_sweeper(base):
        return overrides
    several = [override.key_or_group for override in composer.parse(overrides) if override.is_sweep_override()]
    return words if any(map(composer.is_group, [*several, *(base.hydra.sweeper.params or {})])) else overrides


def _alone(composer: Composer, word: str) -> str | None:
    """A word that sets a key of ours or chooses an option, as a sweep over its one value; None if it cannot be one."""
    key, _, value = word.partition("=")
    alone = f"{key}=choice({value})"
    with contextlib.suppress(HydraException):  # words that cannot be read; null and mappings are no choices
        (override, _) = composer.parse([word, alone])
        taken = word[0] in "+~" or not value or override.is_sweep_override() or override.is_hydra_override()
        return None if taken else alone
    return None


def is_search(composer: Composer, overrides: Sequence[str], multirun: bool) -> bool:
    """Whether the command line is a search. False if it cannot be composed, which is reported elsewhere."""
    with contextlib.suppress(*COMPOSITION_ERRORS):
        if is_sweep(composer, overrides, multirun):
            base = composer.compose(overrides, RunMode.MULTIRUN)
            return str(base.hydra.sweeper.get("_target_", "")) == TARGET
    return False


def search_plan(composer: Composer, overrides: Sequence[str]) -> Plan:
    """What a search is to do; raises ConfigError."""
    base = composer.compose(overrides, RunMode.MULTIRUN)
    return read_plan(composer, base, as_written(base.hydra.overrides))


def has_our_launcher(composer: Composer, overrides: Sequence[str]) -> bool:
    """Whether a launcher of ours runs the sweep, and not one of Hydra's plugins."""
    base = composer.compose(overrides, RunMode.MULTIRUN)
    return has_basic_sweeper(base) and str(base.hydra.launcher.get("_target_", "")).startswith("ssl_runner.sweeps.")


def warm_up(composer: Composer, overrides: Sequence[str]) -> None:
    """Let the server that jobs are forked from import torch while this process checks them."""
    with contextlib.suppress(*COMPOSITION_ERRORS):  # which the check reports
        launcher = composer.compose(overrides, RunMode.MULTIRUN).hydra.launcher
        if launcher.get("_target_") == f"{Local.__module__}.{Local.__name__}" and forked.possible(resources.gpus()):
            forked.prepare()


@contextlib.contextmanager
def as_job(config: DictConfig, job: DictConfig | None, number: int) -> Iterator[None]:
    """Inside, ``${hydra:...}`` and ``${hydra....}`` in a config refer to its job.

    Args:
        config: With the node ``hydra``.
        job: Hydra's node for the current job, or None if the job has not started.
        number: The number that the job will have.
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
    """Hydra's node of overrides, ``hydra`` and ``task``, with interpolations inside words left unresolved."""
    found: Any = OmegaConf.to_container(overrides, resolve=False)
    return found


def shared_folders(composer: Composer, jobs: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """The folders that several jobs of a sweep would work in, with the numbers of those jobs."""
    found: dict[str, list[int]] = {}
    first = None
    for number, job in enumerate(jobs):
        config = composer.compose(job)
        if first is not None:  # the same time of day and random name for all jobs
            OmegaConf.copy_cache(from_config=first, to_config=config)
        with as_job(config, None, number):
            folder = os.path.join(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))
        found.setdefault(os.path.normpath(folder), []).append(number)
        first = first or config
    return {folder: numbers for folder, numbers in found.items() if len(numbers) > 1}
