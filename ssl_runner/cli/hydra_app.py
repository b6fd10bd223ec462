"""The hand-over to Hydra, which creates the run folder, sweeps, completes words or shows configs."""

import contextlib
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ssl_runner.cli.app import FAILURE, App, run_in
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.hydra_private import serve
from ssl_runner.cli.jobs import as_job, as_written
from ssl_runner.cli.report_error import report_error
from ssl_runner.cli.validate import checked_config
from ssl_runner.errors import JobFailed


def hand_over(app: App, composer: Composer, flags: list[str], overrides: list[str], prepared: Any) -> int:
    """Let Hydra run a command line.

    Args:
        flags: They come before the overrides.
        prepared: What `validate.check_jobs` prepared for ``app.run``.

    Returns:
        Exit code: the largest of all jobs.

    Raises:
        JobFailed: A job of a sweep failed; names the last one.
    """
    failures: list[int] = []

    def job(_: Any) -> None:
        node: Any = HydraConfig.get()
        folder = Path(node.runtime.output_dir)
        try:
            words = overrides  # of a single run, which were composed to check them
            if node.mode == RunMode.MULTIRUN:
                given = as_written(node.overrides)
                words = [*given["hydra"], *given["task"]]
            config, _ = checked_config(composer, words, job=node)
            run_in(folder, app, config, prepared)
        except Exception as error:  # reported, and saved in the job's folder; the sweep's other jobs continue
            failures.append(report_error(error))
            if node.mode == RunMode.MULTIRUN:  # for the launcher, which may run this in another process
                raise JobFailed(f"{folder} failed, see {FAILURE} in it") from None

    with contextlib.ExitStack() as stack:
        if "--multirun" in flags:  # the sweep's folder name may contain ${hydra:...}, which Hydra has not set yet
            stack.enter_context(as_job(composer.compose(overrides, RunMode.MULTIRUN), None, 0))
        serve(job, "ssl_runner.train", composer.folder, composer.name, [*flags, *overrides])
    return max(failures, default=0)
