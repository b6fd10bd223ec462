"""``ssl-report PATH...``: what runs say together, as tables, files and a page."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ssl_runner.cli.report_error import GONE, report_error, working_folder_is_gone
from ssl_runner.errors import ConfigError
from ssl_runner.runtime import launch_environment
from ssl_runner.runtime.streams import guarded

if TYPE_CHECKING:
    from ssl_runner.comparison.report import Report

EPILOG = """\
a row is a setting; runs that differ in their seed alone are its repetitions. Figures that were not measured alike stand
in columns of their own, with the reason.

  ssl-report outputs/simclr_mnist                      what the runs below a folder say
  ssl-report outputs --baseline loss=nt_xent           and how each setting differs from this one
  ssl-report outputs --metric 'few_shot/*' --metric knn/top1
  ssl-report outputs --metric 'untrained/*'            the untrained encoder instead
  ssl-report outputs --latex --output table.tex        for a paper (booktabs)
  ssl-report outputs --html report.html --watch        a page that follows a sweep

exit codes: 0, 2 for a mistake or if no run has a result.
"""

WIDTH = 160  # characters, of a pipe or a file
FORMS = {
    "csv": "all numbers, one line a setting",
    "markdown": "tables in Markdown",
    "latex": "tables in LaTeX (booktabs)",
    "json": "everything, runs and notes too",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError([f"{message}; see ssl-report --help"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Its words; by default those of the process.

    Returns:
        Exit code: 0, 1 for a failure, 2 for a mistake of the user, 130 when interrupted.
    """
    launch_environment.in_utf8()
    with guarded():
        try:
            if working_folder_is_gone():
                raise ConfigError([GONE])
            return _run(_parser().parse_args(arguments))
        except KeyboardInterrupt:
            return 130
        except Exception as error:  # report_error keeps the traceback of everything but a user's mistake
            return report_error(error)


def _parser() -> _Parser:
    parser = _Parser(
        prog="ssl-report",
        description="Compare runs: means and 95% intervals over seeds, the best and what cannot be told apart from it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="run folders, or folders above them (default: outputs)"
    )
    metric = "show this figure, or all that fit a glob such as 'few_shot/*'; may be repeated (default: the main ones)"
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help=metric)
    parser.add_argument("--baseline", metavar="KEY=VALUE[,...]", help="paired differences of all settings to this one")
    form = parser.add_mutually_exclusive_group()
    for name, what in FORMS.items():
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=what)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write that to a file instead of the terminal")
    page = "write a page with a sortable table, curves and pictures; it needs no network"
    parser.add_argument("--html", type=Path, metavar="FILE", help=page)
    watch = "renew it every 10 seconds, or as given, while a run or a sweep is at work"
    parser.add_argument("--watch", nargs="?", type=float, const=10.0, metavar="SECONDS", help=watch)
    return parser


def _run(asked: argparse.Namespace) -> int:
    from ssl_runner.comparison import build, reading  # help needs none of it
    from ssl_runner.runs import run_folder

    if asked.output is not None and asked.form is None:
        raise ConfigError(["--output: it needs a format; add --csv, --markdown, --latex or --json"])
    if asked.watch is not None and not asked.watch > 0:
        raise ConfigError([f"--watch: got {asked.watch:g}; give a number of seconds above 0"])
    for flag, file in (("--output", asked.output), ("--html", asked.html)):
        _check_place(flag, file)
    paths = asked.paths or [Path(os.environ.get("SSL_RUNNER_OUTPUTS", "outputs"))]
    validation = any(name.startswith(reading.VALIDATION) for name in asked.metric)
    while True:
        found = reading.read(paths, validation)
        at_work = found.sweeping or any(reason == run_folder.RUNNING for _, reason in found.left_out)
        last = asked.watch is None or not at_work
        try:
            _show(build.of(found, paths, asked.metric, asked.baseline), asked, None if last else asked.watch)
        except ConfigError as error:  # the first runs, or those of the baseline, may be yet to come
            if last:
                raise
            print(error, file=sys.stderr)
        if last or asked.watch is None:
            return 0
        time.sleep(asked.watch)


def _check_place(flag: str, file: Path | None) -> None:
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        wrong = "is a folder" if file.is_dir() else f"cannot be written: there is no folder {file.parent}"
        raise ConfigError([f"{flag}: {file} {wrong}; give a file in a folder that exists"])


def _show(report: "Report", asked: argparse.Namespace, refresh: float | None) -> None:
    from ssl_runner.runtime.atomic_write import write_atomically

    if asked.html is not None:
        from ssl_runner.comparison import page

        page.write(report, asked.html, refresh)
        print(asked.html, file=sys.stderr)
    if asked.form is not None:
        from ssl_runner.comparison.formats import FORMATS

        text = FORMATS[asked.form](report)
        if asked.output is None:
            print(text, end="")
        else:
            write_atomically(asked.output, lambda path: path.write_text(text, encoding="utf-8"))
    elif asked.html is None:
        from ssl_runner.comparison.terminal import picture
        from ssl_runner.runtime.console import Console

        console = Console()
        if not console.is_terminal:
            console.width = WIDTH
        elif asked.watch is not None:
            console.clear()
        console.print(picture(report, console))


if __name__ == "__main__":
    sys.exit(main())
