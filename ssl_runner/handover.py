"""The hand-over to Hydra, which makes the folder, sweeps, completes or shows."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ssl_runner.checks import settled
from ssl_runner.composition import Composer
from ssl_runner.failures import JobFailed, tell
from ssl_runner.program import FAILURE, Program, run_in
from ssl_runner.sweep import as_written


def hand_over(program: Program, composer: Composer, arguments: list[str], prepared: Any) -> int:
    """Let Hydra serve a command line.

    Args:
        arguments: Flags before overrides.
        prepared: What `checks.checked` made for ``program.run``.

    Returns:
        Exit code: the largest of all jobs.

    Raises:
        JobFailed: The last job of a sweep that failed.
    """
    failures: list[int] = []

    def job(_: Any) -> None:
        mine: Any = HydraConfig.get()
        folder = Path(mine.runtime.output_dir)
        try:
            given = as_written(mine.overrides)
            config, _ = settled(composer, [*given["hydra"], *given["task"]], job=mine)
            run_in(folder, program, config, prepared)
        except Exception as error:  # told, and left in the job's folder; the sweep's other jobs go on
            failures.append(tell(error))
            if mine.mode == RunMode.MULTIRUN:  # for the launcher, which may run this in another process
                raise JobFailed(f"{folder} failed, see {FAILURE} in it") from None

    job.__module__ = "ssl_runner.train"  # Hydra names its log after it, and -m would make it __main__
    with _hydra_arguments(arguments):
        hydra.main(config_path=str(composer.folder), config_name=composer.name, version_base="1.3")(job)()
    return max(failures, default=0)


@contextlib.contextmanager
def _hydra_arguments(arguments: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv; with this variable it leaves errors to the caller instead of printing and exiting."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [before[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
