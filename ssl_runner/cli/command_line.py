"""The command line: help, checks before anything is created, then Hydra's runner, and a clear message for a mistake.

Only what the config names imports torch: help, completion and misspelled options do without it.
"""

import sys
import threading
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ssl_runner.cli import flags, help_page, home_folder, initial, option_help, search_path
from ssl_runner.cli.app import App, follow, serve_job
from ssl_runner.cli.report_error import GONE, of_a_thread, report_error, working_folder_is_gone
from ssl_runner.cli.resume import named_folder, resume
from ssl_runner.config.renamed import current_words
from ssl_runner.errors import ConfigError, JobFailed
from ssl_runner.runtime import launch_environment
from ssl_runner.runtime.streams import guarded


def main(app: App) -> int:
    """Run the command in ``sys.argv``.

    Returns:
        Exit code: 0, 1 for a failure, 2 for a mistake of the user, 130 when interrupted.
    """
    # without the line of code, which is not the user's
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    threading.excepthook = of_a_thread
    home_folder.settle_environment()
    with guarded():
        return _main(app, sys.argv[1:])


def _main(app: App, arguments: list[str]) -> int:
    try:
        if "--help" in arguments or "-h" in arguments:
            print(_help([word for word in arguments if word not in ("--help", "-h")]), end="")
            return 0
        if "--version" in arguments:
            print(f"ssl-runner {installed_version()}")
            return 0
        if working_folder_is_gone():
            raise ConfigError([GONE])
        return _serve(app, arguments)
    except JobFailed as failure:
        print(f"{failure}; the sweep's other jobs were run to the end", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        if launch_environment.rank() == 0:
            print(str(interruption) or "interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # report_error keeps the traceback of everything but a user's mistake
        return report_error(error)


def _help(words: list[str]) -> str:
    """The help page of the program, or of the named groups and options: ``loss``, ``loss=hard_negative``."""
    parsed = flags.read(words)
    own = [] if parsed.config_dir is None else [_extra_folder(parsed.config_dir)]
    folders = [search_path.conf_folder(), *search_path.plugin_folders(), *own]
    return option_help.page(folders, parsed.overrides) if parsed.overrides else help_page.page(*folders)


def _extra_folder(given: Path) -> Path:
    extra = given.expanduser().absolute()
    if not extra.is_dir():
        raise ConfigError(
            [f"--config-dir: {extra} is not a folder; give one that holds files like experiment/NAME.yaml"]
        )
    return extra


def installed_version() -> str:
    """Of this package."""
    try:
        return version("ssl-runner")
    except PackageNotFoundError:
        return "(not installed)"


def _serve(app: App, arguments: list[str]) -> int:
    parsed = flags.read(arguments)
    if parsed.job is not None:
        return serve_job(app, parsed.job)
    overrides, renamed = current_words(home_folder.with_homes(initial.with_weights(parsed.overrides)))
    for sentence in renamed if launch_environment.rank() == 0 else []:
        print(f"warning: {sentence}; the old name works until version 0.3", file=sys.stderr)
    # these import Hydra, which help does not need
    from ssl_runner.cli.compose import Composer
    from ssl_runner.cli.hydra_app import hand_over
    from ssl_runner.cli.jobs import for_jobs, has_our_launcher, is_search, is_sweep, warm_up
    from ssl_runner.cli.validate import check_jobs

    extra = None if parsed.config_dir is None else _extra_folder(parsed.config_dir)
    if launch_environment.size() > 1 and parsed.multirun:
        raise ConfigError(["-m under torchrun: all processes share one run; start torchrun once for each job"])
    composer = Composer(search_path.conf_folder(), extra, parsed.config_name)
    if composer.file("", parsed.config_name) is None:
        raise ConfigError([f"--config-name: there is no {parsed.config_name}.yaml in {composer.folder}; leave it out"])
    prepared, sweep = None, parsed.multirun
    if not parsed.for_hydra:
        code = _serve_named(app, overrides, parsed.multirun)
        if code is not None:
            return code
        overrides = for_jobs(composer, overrides, parsed.multirun)
        if parsed.multirun:
            warm_up(composer, overrides)
            if sys.stderr.isatty():
                print("checking the jobs", file=sys.stderr)
        if is_search(composer, overrides, parsed.multirun):
            from ssl_runner.cli.search import run_search

            return run_search(app, composer, overrides)
        checked = check_jobs(app, composer, overrides, parsed.multirun)
        configs, prepared = checked.configs, checked.prepared
        if configs and configs[0].get("dry_run"):  # no configs: a sweeper that chooses jobs as it runs
            return 0
        if launch_environment.rank() > 0:
            follow(app, configs[0], prepared)
            return 0
        sweep = is_sweep(composer, overrides, parsed.multirun)
        if sweep and has_our_launcher(composer, overrides):
            from ssl_runner.cli.sweep import run_sweep

            return run_sweep(composer, overrides, checked)
    own = ["--config-name", parsed.config_name] if parsed.config_name != "config" else []
    own += [] if extra is None else ["--config-dir", str(extra)]
    own += ["--multirun"] if sweep else []
    return hand_over(app, composer, [*own, *parsed.for_hydra], overrides, prepared)


def _serve_named(app: App, overrides: list[str], multirun: bool) -> int | None:
    """Run ``resume=RUN`` or ``reproduce=RUN`` and return the exit code, or None if neither is given."""
    stopped, original = named_folder(overrides, "resume"), named_folder(overrides, "reproduce")
    if original is not None and any(override.startswith("resume=") for override in overrides):
        raise ConfigError(["resume= continues a run and reproduce= runs it again; give only one of them"])
    if stopped is not None:
        return resume(app, stopped, overrides, multirun)
    if original is not None:
        from ssl_runner.cli.reproduce import reproduce

        return reproduce(app, original, overrides, multirun)
    return None
