"""The story of a run: compose -> check -> wire -> fit -> evaluate -> report."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_runner.cli import command_line
from ssl_runner.cli.app import App
from ssl_runner.runtime import launch_environment

if TYPE_CHECKING:
    from ssl_runner.training.run import Run

Config = dict[str, Any]


def main() -> None:
    """The console command ``ssl-train``: composes and checks the config of each job, then calls the functions below."""
    launch_environment.in_utf8()
    sys.exit(command_line.main(App(prepare, run, rehearse)))


def prepare(config: Config) -> "Run":
    """Build the objects of a checked config, before anything is written; raises ConfigError or DataError."""
    from ssl_runner.wiring import wire

    return wire.prepare_all(config)


def run(config: Config, folder: Path | None, wired: "Run | None" = None) -> Config:
    """Train and evaluate the run that a checked config describes.

    With several processes, all of them train. Only process 0 knows the folder, evaluates, writes, and returns the
    result, which is the content of result.json.
    """
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


def rehearse(wired: "Run") -> None:
    """Print what a run would do, take one step and print how long it took; nothing is written."""
    from ssl_runner.report import stages as report

    report.rehearse(wired)


if __name__ == "__main__":
    main()
