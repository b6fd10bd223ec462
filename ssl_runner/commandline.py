"""The command line: help, checks before anything is made, then Hydra's runner, and one clear message for a mistake.

Torch is imported only by what the config names: help, completion and misspelled options do without it.
"""

import argparse
import contextlib
import errno
import os
import secrets
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_runner import help_page
from ssl_runner.config import ConfigError
from ssl_runner.resuming import resumed_config, resumed_folder
from ssl_runner.schema import check

if TYPE_CHECKING:
    from ssl_runner.composition import Composer

Config = dict[str, Any]
Run = Callable[[Config, Path], Any]

FAILURE = "failure.txt"
MOST_JOBS_CHECKED = 256

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class JobFailed(RuntimeError):
    """A job of a sweep failed and has told why."""


def _unique() -> str:
    """The second, and six hex digits."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"


# the time alone is not enough: two runs of one second would share a folder
OmegaConf.register_new_resolver("unique", _unique, use_cache=True, replace=True)


def main(run: Run) -> int:
    """Serve ``sys.argv``.

    Args:
        run: Does the work, given a checked config and the run folder, which exists.

    Returns:
        Exit code: 0, 1 for a failure, 2 for a mistake in what was asked, 130 when interrupted.
    """
    arguments = sys.argv[1:]
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # no line of code: it is not the user's
    try:
        if "--help" in arguments or "-h" in arguments:
            print(help_page.page(conf_folder()), end="")
            return 0
        if "--version" in arguments:
            print(f"ssl-runner {_version()}")
            return 0
        return _serve(run, arguments)
    except JobFailed as failure:
        print(f"{failure}; the sweep's other jobs ran to their end", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print(str(interruption) or "interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # sorted by _tell: what is no user's mistake keeps its traceback
        return _tell(error)


def conf_folder() -> Path:
    """The conf folder: beside the modules in a wheel, at the repository's root in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError([f"no conf folder beside {here} or in it; install ssl-runner anew"])


def _version() -> str:
    try:
        return version("ssl-runner")
    except PackageNotFoundError:
        return "(not installed)"


def _serve(run: Run, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--config-name", "-cn", default="config")
    asked, others = parser.parse_known_intermixed_args(arguments)
    from ssl_runner.composition import Composer

    extra = None if asked.config_dir is None else asked.config_dir.absolute()
    composer = Composer(conf_folder(), extra, asked.config_name.removesuffix(".yaml"))
    if not others:
        resumed = resumed_folder(asked.overrides)
        if resumed is not None:
            return _resume(run, resumed, asked.overrides, asked.multirun)
        _check_all(composer, asked.overrides, asked.multirun)
    elif any(argument.startswith(("--config-path", "-cp")) for argument in others):
        raise ConfigError(["--config-path: the conf folder is the program's own; --config-dir adds one of yours"])
    # Hydra's own parser does not read flags between overrides
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    return _hand_over(run, composer, [*flags, *(argument for argument in arguments if argument not in flags)])


def settled(composer: "Composer", overrides: list[str]) -> tuple[Config, list[str]]:
    """The checked config of a command line, and a line for every value that was dropped.

    Raises:
        ConfigError: With all problems.
    """
    from ssl_runner.composition import settle
    from ssl_runner.composition_errors import COMPOSITION_ERRORS, explain

    try:
        config, messages = settle(composer, overrides)
    except COMPOSITION_ERRORS as error:
        raise explain(composer, overrides, error) from error
    return check(config), messages


def _check_all(composer: "Composer", overrides: list[str], multirun: bool) -> None:
    """Compose and check every job before a folder is made, and say what was dropped."""
    from ssl_runner.composition import jobs
    from ssl_runner.composition_errors import COMPOSITION_ERRORS, explain

    try:
        sweep = jobs(composer, overrides, multirun)
    except COMPOSITION_ERRORS as error:
        raise explain(composer, overrides, error) from error
    every = [overrides] if sweep is None else sweep if len(sweep) <= MOST_JOBS_CHECKED else sweep[:1]
    dropped = [message for job in every for message in settled(composer, job)[1]]
    for message in dict.fromkeys(dropped):
        print(message, file=sys.stderr)


def _hand_over(run: Run, composer: "Composer", arguments: list[str]) -> int:
    """Let Hydra make the folder, sweep, complete or show."""
    import hydra

    failures: list[int] = []

    def job(_: Any) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        mine = HydraConfig.get()
        folder = Path(mine.runtime.output_dir)
        try:
            config, _ = settled(composer, [*mine.overrides.hydra, *mine.overrides.task])
            _run_in(folder, run, config)
        except Exception as error:  # told, and left in the job's folder; the sweep's other jobs go on
            failures.append(_tell(error))
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


def _resume(run: Run, folder: Path, overrides: list[str], multirun: bool) -> int:
    """Run on in the folder of a run, with its config."""
    if multirun:
        raise ConfigError([f"resume={folder}: it goes on with one run; leave -m out"])
    config = resumed_config(folder, [override for override in overrides if not override.startswith("resume=")])
    _run_in(folder, run, config)
    return 0


def _run_in(folder: Path, run: Run, config: Config) -> None:
    """Run, and leave the traceback of a failure in the folder, whatever process and launcher this is."""
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        run(config, folder)
    except Exception:  # written down whatever it is, and raised again
        with contextlib.suppress(OSError):  # a full disk must not hide what happened
            (folder / FAILURE).write_text(traceback.format_exc())
        raise


def _tell(error: Exception) -> int:
    """Print an error: one message if it is meant for the user, else with its traceback. Gives the exit code."""
    if isinstance(error, OSError) and error.errno in _DISK:
        where = error.filename or "to the run folder"
        remedy = "make room, or choose another hydra.run.dir, then go on with resume=RUN"
        print(f"cannot write {where}: {error.strerror}. What was saved before is whole; {remedy}.", file=sys.stderr)
        return 1
    if not _is_ours(error):
        traceback.print_exception(error)
        return 1
    print(error, file=sys.stderr)
    return 2 if isinstance(error, ValueError) else 1


def _is_ours(error: Exception) -> bool:
    """Whether the message is addressed to the user: an exception class of the house, or a ValueError that it raised."""
    from hydra.errors import HydraException

    if isinstance(error, HydraException | OmegaConfBaseException) or type(error).__module__.startswith("ssl_runner."):
        return True
    places = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, ValueError) and "".join(places[-1:]).startswith("ssl_runner.")
