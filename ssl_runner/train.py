"""The story of a run: compose -> check -> wire -> fit -> evaluate -> report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_runner.cli import command_line, python_api
from ssl_runner.cli.app import App, Config
from ssl_runner.runtime import launch_environment

if TYPE_CHECKING:
    from ssl_runner.wiring.loaded_run import LoadedRun


def main() -> None:
    """The command ``ssl-train``: composes and checks the config of each job, then calls the functions below."""
    launch_environment.in_utf8()
    sys.exit(command_line.main(App(prepare, run, rehearse)))


def train(config: Any, folder: str | Path | None = None) -> "LoadedRun":
    """``ssl_runner.train``: run a config, or the overrides of a command line, in this process; see `python_api`."""
    from ssl_runner.wiring.loaded_run import load_run

    return load_run(python_api.train(App(prepare, run, rehearse), config, folder))


def prepare(config: Config) -> Any:
    """Build the objects of a checked config, before anything is written; raises ConfigError or DataError."""
    from ssl_runner.wiring.wire import prepare_all  # torch takes seconds to import; help and typos need none of it

    return prepare_all(config)


def run(config: Config, folder: Path | None, wired: Any = None) -> Config:
    """Train and evaluate; returns the content of result.json. Only process 0 has the folder and the result."""
    from ssl_runner.report import stages as report
    from ssl_runner.training import session

    with session.opened(config, folder, wired or prepare(config)) as opened:
        if not opened.finished:
            with opened.tracking() as tracker:
                report.before(opened, tracker)
                opened.fit(tracker)
            opened.evaluate()
            report.after(opened)
    return report.conclude(opened)


def rehearse(wired: Any) -> None:
    """Print what a run would do, and take one step; nothing is written."""
    from ssl_runner.report import stages

    stages.rehearse(wired)


sys.modules[__name__].__class__ = python_api.CallableModule  # ssl_runner.train(...) in Python
if __name__ == "__main__":
    main()
