"""The command line: help, checks before anything is made, then Hydra's runner, and one clear message for a mistake.

Torch is imported only by what the config names: help, completion and misspelled options do without it.
"""

import argparse
import contextlib
import errno
import functools
import os
import secrets
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_runner import help_page
from ssl_runner.config import ConfigError, of_the_house
from ssl_runner.data.roots import NotAtHand, at_hand_only
from ssl_runner.interruption import FolderInUse, how_to_go_on, interrupted_by_sigterm
from ssl_runner.mistakes import Misspelled, every_problem, values_behind
from ssl_runner.resuming import named_folder, resumed_config
from ssl_runner.schema import check

if TYPE_CHECKING:
    from ssl_runner.composition import Composer

Config = dict[str, Any]

FAILURE = "failure.txt"
MOST_JOBS_CHECKED = 256
SECONDS_OF_PREPARING = 5.0

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class Program:
    """What there is to serve.

    Attributes:
        prepare: Makes of a checked config what ``run`` needs, or raises what is wrong with it; writes nothing.
        run: Does the work, given config, the run folder, which exists, and what ``prepare`` made; gives the result.
        rehearse: Shows what ``run`` would do.
    """

    prepare: Callable[[Config], Any]
    run: Callable[[Config, Path, Any], Any]
    rehearse: Callable[[Any], None]


class JobFailed(RuntimeError):
    """A job of a sweep failed and has told why."""


def _unique() -> str:
    """The second, and six hex digits."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"


# the time alone is not enough: two runs of one second would share a folder
OmegaConf.register_new_resolver("unique", _unique, use_cache=True, replace=True)


def main(program: Program) -> int:
    """Serve ``sys.argv``.

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
        return _serve(program, arguments)
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


def _serve(program: Program, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--config-name", "-cn", default="config")
    asked, others = parser.parse_known_intermixed_args(arguments)
    from ssl_runner.composition import Composer

    extra = None if asked.config_dir is None else asked.config_dir.absolute()
    if extra is not None and not extra.is_dir():
        raise ConfigError([f"--config-dir: {extra} is no folder; give one with experiment/NAME.yaml or the like in it"])
    composer = Composer(conf_folder(), extra, asked.config_name.removesuffix(".yaml"))
    prepared = None
    if not others:
        runs = {word: named_folder(asked.overrides, word) for word in ("resume", "reproduce")}
        if runs["reproduce"] and any(override.startswith("resume=") for override in asked.overrides):
            raise ConfigError(["resume= goes on with a run and reproduce= runs it again; give one of them"])
        for word, serve in {"resume": _resume, "reproduce": _reproduce}.items():
            if (folder := runs[word]) is not None:
                return serve(program, folder, asked.overrides, asked.multirun)
        configs, sweeping = _check_all(program, composer, asked.overrides, asked.multirun)
        try:
            prepared = _prepare_all(program, configs)
        except ConfigError as error:
            fit = functools.partial(_fit, program, composer, asked.multirun)
            raise ConfigError(dict.fromkeys(values_behind(error, asked.overrides, fit))) from error
        if sweeping:  # its jobs may run elsewhere, and prepare themselves
            prepared = None
        if configs[0].get("dry_run"):
            return 0
    elif any(argument.startswith(("--config-path", "-cp")) for argument in others):
        raise ConfigError(["--config-path: the conf folder is the program's own; --config-dir adds one of yours"])
    # Hydra's own parser does not read flags between overrides
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    return _hand_over(
        program, composer, [*flags, *(argument for argument in arguments if argument not in flags)], prepared
    )


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


def _check_all(
    program: Program, composer: "Composer", overrides: list[str], multirun: bool
) -> tuple[list[Config], bool]:
    """The config of every job, checked before a folder is made, and whether it is a sweep; says what was dropped.

    Raises:
        ConfigError: With all problems of the line, what does not fit included.
    """

    fit = functools.partial(_fit, program, composer, multirun)
    try:
        configs, sweeping, dropped = _settle_all(composer, overrides, multirun)
    except ConfigError as error:
        every = every_problem(error, overrides, lambda rest: _settle_all(composer, rest, multirun), fit)
        raise ConfigError(dict.fromkeys(every)) from error
    for message in dropped:
        print(message, file=sys.stderr)
    return configs, sweeping


def _fit(program: Program, composer: "Composer", multirun: bool, overrides: list[str]) -> None:
    """Prepare the jobs of a command line as far as the data at hand allow, only to see what is wrong with it."""
    configs = _settle_all(composer, overrides, multirun)[0]
    with at_hand_only(), contextlib.suppress(NotAtHand):
        _prepare_all(program, [config | {"dry_run": False} for config in configs])


def _settle_all(composer: "Composer", overrides: list[str], multirun: bool) -> tuple[list[Config], bool, list[str]]:
    """Configs of all jobs, whether it is a sweep, and a line for every value that was dropped."""
    from ssl_runner.composition import jobs
    from ssl_runner.composition_errors import COMPOSITION_ERRORS, explain

    try:
        sweep = jobs(composer, overrides, multirun)
    except COMPOSITION_ERRORS as error:
        raise explain(composer, overrides, error) from error
    every = [overrides] if sweep is None else sweep if len(sweep) <= MOST_JOBS_CHECKED else sweep[:1]
    checked, problems = [], []
    for job in every:
        try:
            checked.append(settled(composer, job))
        except Misspelled:  # of which only this knows the rest of the line
            raise
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    dropped = dict.fromkeys(message for _, messages in checked for message in messages)
    return [config for config, _ in checked], sweep is not None, list(dropped)


def _prepare_all(program: Program, configs: list[Config]) -> Any:
    """Find before a folder is made what does not fit; of a long sweep, what a few seconds can find.

    Returns:
        What the last one needs.
    """
    began, prepared, problems = time.perf_counter(), None, []
    for number, config in enumerate(configs):
        if number and time.perf_counter() - began > SECONDS_OF_PREPARING and not config.get("dry_run"):
            break
        try:
            prepared = program.prepare(config)
        except ConfigError as error:
            problems += error.problems
            continue
        if config.get("dry_run"):
            program.rehearse(prepared)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return prepared


def _hand_over(program: Program, composer: "Composer", arguments: list[str], prepared: Any) -> int:
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
            _run_in(folder, program, config, prepared)
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


def _resume(program: Program, folder: Path, overrides: list[str], multirun: bool) -> int:
    """Run on in the folder of a run, with its config."""
    config = resumed_config(folder, overrides, "resume", multirun)
    prepared = program.prepare(config)
    if config.get("dry_run"):
        program.rehearse(prepared)
    else:
        _run_in(folder, program, config, prepared)
    return 0


def _reproduce(program: Program, original: Path, overrides: list[str], multirun: bool) -> int:
    """Run again in a new folder what a run did, and compare. Exit code 1 if it came out otherwise."""
    from ssl_runner import reproducing

    config = resumed_config(original, overrides, "reproduce", multirun)
    before = reproducing.finished(original)
    prepared = program.prepare(config)
    if config.get("dry_run"):
        program.rehearse(prepared)
        return 0
    folder = Path(os.environ.get("SSL_RUNNER_OUTPUTS", "outputs")) / config["name"] / _unique()
    after = _run_in(folder, program, config, prepared)
    text, same = reproducing.compare(original, before, after)
    print(text)
    return 0 if same else 1


def _run_in(folder: Path, program: Program, config: Config, prepared: Any) -> Any:
    """Run, and leave the traceback of a failure in the folder, whatever process and launcher this is."""
    (folder / FAILURE).unlink(missing_ok=True)
    try:
        with interrupted_by_sigterm():
            return program.run(config, folder, prepared)
    except KeyboardInterrupt as interruption:
        if str(interruption) or not (folder / "checkpoints").is_dir():
            raise
        raise KeyboardInterrupt(f"interrupted; {how_to_go_on(folder)}") from None
    except FolderInUse:  # the folder is another's
        raise
    except Exception:  # written down whatever it is, and raised again
        with contextlib.suppress(OSError):  # a full disk must not hide what happened
            (folder / FAILURE).write_text(traceback.format_exc())
        raise


def _tell(error: Exception) -> int:
    """Print an error: one message if it is meant for the user, else with its traceback. Gives the exit code."""
    if isinstance(error, OSError) and error.errno in _DISK:
        where, remedy = error.filename or "to the run folder", "Choose another hydra.run.dir"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "What was saved before is whole: make room, then go on with resume=RUN"
        print(f"cannot write {where}: {error.strerror}. {remedy}.", file=sys.stderr)
        return 1
    from hydra.errors import HydraException

    if not (isinstance(error, HydraException | OmegaConfBaseException) or of_the_house(error)):
        traceback.print_exception(error)
        return 1
    print(error, file=sys.stderr)
    return 2 if isinstance(error, ValueError) else 1
