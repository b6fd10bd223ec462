"""Checks and prepares all jobs of a command line before a folder is created."""

import contextlib
import functools
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from ssl_runner.cli.all_problems import every_problem, values_behind
from ssl_runner.cli.app import App, Config
from ssl_runner.cli.compose import Composer, compose_config
from ssl_runner.cli.compose_errors import COMPOSITION_ERRORS, explain
from ssl_runner.cli.initial import settled
from ssl_runner.cli.jobs import as_job, has_our_launcher, is_search, jobs, shared_folders
from ssl_runner.cli.option_files import complaints
from ssl_runner.cli.similar import Similar
from ssl_runner.config.schema import check
from ssl_runner.errors import ConfigError, Misspelled, NotDownloaded
from ssl_runner.runtime import launch_environment
from ssl_runner.runtime.no_download import no_download

SECONDS_OF_PREPARING = 3.0


def checked_config(
    composer: Composer, overrides: list[str], job: DictConfig | None = None, number: int = 0
) -> tuple[Config, list[str]]:
    """The checked config of a command line, and a line for every value that was dropped.

    Args:
        job: Hydra's node for the current job, or None if the job has not started.
        number: The job's number in its sweep.

    Raises:
        ConfigError: With all problems.
    """
    try:
        config, messages = compose_config(composer, overrides)
    except COMPOSITION_ERRORS as error:
        raise explain(composer, overrides, error) from error
    with as_job(config, job, number):
        return settled(check(config)), messages


@dataclass(frozen=True)
class Checked:
    """The jobs of a command line, all of them checked.

    Attributes:
        configs: Of each job.
        overrides: Of each job.
        prepared: What ``app.run`` needs. None for a sweep, whose jobs prepare themselves in their own processes.
        fingerprints: Of each job's training data, or None where it is not known yet.
        job_bytes: Memory that a job takes by the estimate, the most of those prepared; None if unknown.
    """

    configs: list[Config]
    overrides: list[list[str]]
    prepared: Any
    fingerprints: list[str | None]
    job_bytes: int | None


def check_jobs(app: App, composer: Composer, overrides: list[str], multirun: bool) -> Checked:
    """Find every problem of any job, and print which values were dropped.

    Raises:
        ConfigError: With all problems of the command line, including parts that do not fit together.
    """
    fit = functools.partial(_fit, app, composer, multirun)
    try:
        configs, jobs, dropped = _settle_all(composer, multirun, overrides)
    except ConfigError as error:
        every = every_problem(error, overrides, functools.partial(_settle_all, composer, multirun), fit)
        raise ConfigError(dict.fromkeys(every)) from error
    for message in dropped if launch_environment.rank() == 0 else []:
        print(message, file=sys.stderr)
    try:
        prepared, data, job_bytes = _prepare_all(app, configs)
    except ConfigError as error:
        raise ConfigError(dict.fromkeys(values_behind(error, overrides, fit))) from error
    fingerprints = [data.get(_dataset(config)) for config in configs]
    return Checked(configs, jobs or [overrides], None if jobs is not None else prepared, fingerprints, job_bytes)


def _dataset(config: Config) -> str:
    """What two configs have in common that train on the same data."""
    return json.dumps(config.get("dataset"), sort_keys=True)


def _fit(app: App, composer: Composer, multirun: bool, overrides: list[str]) -> None:
    """Prepare the jobs of a command line as far as the available data allow, only to find its problems."""
    configs = _settle_all(composer, multirun, overrides)[0]
    with no_download(), contextlib.suppress(NotDownloaded):
        _prepare_all(app, [config | {"dry_run": False} for config in configs])


def _settle_all(
    composer: Composer, multirun: bool, overrides: list[str]
) -> tuple[list[Config], list[list[str]] | None, list[str]]:
    """Configs of all jobs, their overrides (None if it is no sweep), and a line for every value that was dropped."""
    if problems := complaints(composer, overrides):
        raise ConfigError(problems)
    try:
        sweep = jobs(composer, overrides, multirun)
    except ConfigError:  # a search's own settings
        raise
    except COMPOSITION_ERRORS as error:
        raise explain(composer, overrides, error) from error
    every = [overrides] if sweep is None else sweep
    found, problems = [], []
    similar = Similar(composer)
    for number, job in enumerate(every):
        try:
            found.append(similar(job) or checked_config(composer, job, number=number))
        except Misspelled:  # it carries the rest of the line, which a plain ConfigError would lose
            raise
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    if sweep and not has_our_launcher(composer, overrides) and not is_search(composer, overrides, multirun):
        refuse_shared_folders(composer, every)
    dropped = dict.fromkeys(message for _, messages in found for message in messages)
    return [config for config, _ in found], sweep, list(dropped)


def refuse_shared_folders(composer: Composer, every: list[list[str]]) -> None:
    """Raises ConfigError for jobs of a sweep that would work in one folder."""
    for folder, numbers in shared_folders(composer, every).items():
        raise ConfigError(
            [
                f"hydra.sweep.subdir: {len(numbers)} of the {len(every)} jobs would work in the folder {folder}; name "
                "each its own, as hydra.sweep.subdir='${hydra.job.num}' or '${hydra.job.override_dirname}' does"
            ]
        )


def _by_kind(configs: list[Config]) -> list[Config]:
    """The configs, those that differ from all before them in more than their seed first."""
    first: dict[str, int] = {}
    for number, config in enumerate(configs):
        first.setdefault(json.dumps(config | {"seed": None}, sort_keys=True), number)
    numbers = set(first.values())
    return [configs[number] for number in sorted(range(len(configs)), key=lambda number: number not in numbers)]


def _prepare_all(app: App, configs: list[Config]) -> tuple[Any, dict[str, str], int | None]:
    """Find what does not fit before a folder is made: in a long sweep, as much as a few seconds can find.

    Jobs that differ in more than their seed come first. Jobs that train on other data than those before them are
    prepared however long it takes.

    Returns:
        What a single job needs; fingerprints by dataset node; the most memory that a job takes.
    """
    began, prepared, problems = time.perf_counter(), None, []
    data: dict[str, str] = {}
    seen: set[str] = set()
    sizes: list[int] = []
    for number, config in enumerate(_by_kind(configs)):
        late = number and time.perf_counter() - began > SECONDS_OF_PREPARING
        if late and _dataset(config) in seen and not config.get("dry_run"):
            continue
        seen.add(_dataset(config))
        try:
            prepared = app.prepare(config)
        except ConfigError as error:
            problems += error.problems
            continue
        if (known := getattr(prepared, "fingerprint", None)) is not None:
            data[_dataset(config)] = known
            sizes.append(prepared.bytes_needed)
        if config.get("dry_run"):
            app.rehearse(prepared)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return prepared, data, max(sizes, default=None)
