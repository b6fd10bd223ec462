"""Checks and prepares all jobs of a command line before a folder is created."""

import contextlib
import functools
import sys
import time
from typing import Any

from omegaconf import DictConfig

from ssl_runner.cli.all_problems import every_problem, values_behind
from ssl_runner.cli.app import App, Config
from ssl_runner.cli.compose import Composer, compose_config
from ssl_runner.cli.compose_errors import COMPOSITION_ERRORS, explain
from ssl_runner.cli.jobs import as_job, jobs, shared_folders
from ssl_runner.cli.option_files import complaints
from ssl_runner.config.schema import check
from ssl_runner.errors import ConfigError, Misspelled, NotDownloaded
from ssl_runner.runtime import launch_environment
from ssl_runner.runtime.no_download import no_download

MOST_JOBS_CHECKED = 256
SECONDS_OF_PREPARING = 5.0


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
        return check(config), messages


def check_jobs(app: App, composer: Composer, overrides: list[str], multirun: bool) -> tuple[list[Config], Any]:
    """Find every problem of any job, and print which values were dropped.

    Returns:
        The jobs' configs, and what ``app.run`` needs. The latter is None for a sweep, whose jobs may run elsewhere and
        prepare themselves.

    Raises:
        ConfigError: With all problems of the command line, including parts that do not fit together.
    """
    fit = functools.partial(_fit, app, composer, multirun)
    try:
        configs, sweeping, dropped = _settle_all(composer, multirun, overrides)
    except ConfigError as error:
        every = every_problem(error, overrides, functools.partial(_settle_all, composer, multirun), fit)
        raise ConfigError(dict.fromkeys(every)) from error
    for message in dropped if launch_environment.rank() == 0 else []:
        print(message, file=sys.stderr)
    try:
        prepared = _prepare_all(app, configs)
    except ConfigError as error:
        raise ConfigError(dict.fromkeys(values_behind(error, overrides, fit))) from error
    return configs, None if sweeping else prepared


def _fit(app: App, composer: Composer, multirun: bool, overrides: list[str]) -> None:
    """Prepare the jobs of a command line as far as the available data allow, only to find its problems."""
    configs = _settle_all(composer, multirun, overrides)[0]
    with no_download(), contextlib.suppress(NotDownloaded):
        _prepare_all(app, [config | {"dry_run": False} for config in configs])


def _settle_all(composer: Composer, multirun: bool, overrides: list[str]) -> tuple[list[Config], bool, list[str]]:
    """Configs of all jobs, whether it is a sweep, and a line for every value that was dropped."""
    if problems := complaints(composer, overrides):
        raise ConfigError(problems)
    try:
        sweep = jobs(composer, overrides, multirun)
    except COMPOSITION_ERRORS as error:
        raise explain(composer, overrides, error) from error
    every = [overrides] if sweep is None else sweep if len(sweep) <= MOST_JOBS_CHECKED else sweep[:1]
    found, problems = [], []
    for number, job in enumerate(every):
        try:
            found.append(checked_config(composer, job, number=number))
        except Misspelled:  # it carries the rest of the line, which a plain ConfigError would lose
            raise
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    if sweep is not None:
        refuse_shared_folders(composer, every)
    dropped = dict.fromkeys(message for _, messages in found for message in messages)
    return [config for config, _ in found], sweep is not None, list(dropped)


def refuse_shared_folders(composer: Composer, every: list[list[str]]) -> None:
    """Raises ConfigError for jobs of a sweep that would work in one folder."""
    for folder, numbers in shared_folders(composer, every).items():
        raise ConfigError(
            [
                f"hydra.sweep.subdir: {len(numbers)} of the {len(every)} jobs would work in the folder {folder}; name "
                "each its own, as hydra.sweep.subdir='${hydra.job.num}' or '${hydra.job.override_dirname}' does"
            ]
        )


def _prepare_all(app: App, configs: list[Config]) -> Any:
    """Find parts that do not fit before a folder is created; in a long sweep, as many as a few seconds allow.

    Returns:
        What ``app.run`` needs for the last job.
    """
    began, prepared, problems = time.perf_counter(), None, []
    for number, config in enumerate(configs):
        if number and time.perf_counter() - began > SECONDS_OF_PREPARING and not config.get("dry_run"):
            break
        try:
            prepared = app.prepare(config)
        except ConfigError as error:
            problems += error.problems
            continue
        if config.get("dry_run"):
            app.rehearse(prepared)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return prepared
