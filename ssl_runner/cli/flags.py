"""The command line's flags: Hydra's own, anywhere among the overrides, and one sentence for each mistake."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import ConfigError

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
CFG = ("job", "hydra", "all")
COMPLETION = ("install=", "uninstall=", "query=")


@dataclass(frozen=True)
class Asked:
    """A parsed command line.

    Attributes:
        overrides: The words that are not flags, in order.
        multirun: Whether it is a sweep.
        config_dir: The value of ``--config-dir``, or None.
        config_name: Name of the primary config, without its suffix.
        for_hydra: Flags that Hydra handles instead of a run: ``--cfg job``.
        job: The run folder of a sweep's job, which a launcher starts, or None.
    """

    overrides: list[str]
    multirun: bool
    config_dir: Path | None
    config_name: str
    for_hydra: list[str]
    job: Path | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError([message])


def read(arguments: Sequence[str]) -> Asked:
    """The flags and the overrides of a command line.

    Raises:
        ConfigError: A flag is unknown, lacks its value, or has an invalid one.
    """
    words = _with_all(arguments)
    found, unknown = _parser().parse_known_intermixed_args(words)
    if unknown:
        known = [name for action in _parser()._actions for name in action.option_strings]
        raise ConfigError(
            [
                f"{word}: there is no such flag{did_you_mean(word, known) or '; see ssl-train --help'}"
                for word in unknown
            ]
        )
    _refuse(found)
    shown: list[str] = []
    for name in ("cfg", "package", "info"):
        if getattr(found, name) is not None:
            shown += [f"--{name}", getattr(found, name)]
    for name in ("resolve", "hydra_help", "shell_completion"):
        if getattr(found, name):
            shown.append(f"--{name.replace('_', '-')}")
    name = found.config_name.removesuffix(".yaml")
    return Asked(found.overrides, found.multirun, found.config_dir, name, shown, found.job)


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False, prog="ssl-train")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--job", type=Path)
    for names in (
        ("-m", "--multirun"),
        ("-r", "--run"),
        ("--resolve",),
        ("--hydra-help",),
        ("-sc", "--shell-completion"),
    ):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("-c", "--cfg", nargs="?", const="")
    parser.add_argument("-i", "--info", nargs="?", const="")
    for names in (("-p", "--package"), ("-cp", "--config-path"), ("--experimental-rerun",)):
        parser.add_argument(*names, nargs="?", const="")
    parser.add_argument("-cd", "--config-dir", type=Path, nargs="?", const=Path())
    parser.add_argument("-cn", "--config-name", default="config", nargs="?", const="")
    return parser


def _with_all(arguments: Sequence[str]) -> list[str]:
    """Add ``all`` after an ``--info`` without a value, which stands before an override or at the end."""
    words: list[str] = []
    for place, word in enumerate(arguments):
        words.append(word)
        after = arguments[place + 1] if place + 1 < len(arguments) else "-"
        if word in ("-i", "--info") and ("=" in after or after.startswith(("-", "~", "+"))):
            words.append("all")
    return words


def _refuse(found: argparse.Namespace) -> None:
    """Raises ConfigError for a value that is missing or unknown, and for flags that do not go together."""
    problems = []
    for flag, value, choices in (("--cfg", found.cfg, CFG), ("--info", found.info, INFO)):
        if value is not None and value not in choices:
            got = f"got {value!r}" if value else "it needs a value"
            problems.append(f"{flag}: {got}; expected {', '.join(choices[:-1])} or {choices[-1]}")
    if found.package == "":
        problems.append("--package: it needs a value, a node of the config; write --cfg job --package optimizer")
    if found.config_name == "":
        problems.append(
            "--config-name: it needs a value, the name of a primary config; leave it out for the shipped one"
        )
    if found.config_dir == Path():
        problems.append("--config-dir: it needs a value, a folder that holds files like experiment/NAME.yaml")
    if found.config_path is not None:
        problems.append("--config-path: the conf folder cannot be replaced; add your own with --config-dir")
    if found.experimental_rerun is not None:
        problems.append(
            "--experimental-rerun: not supported, since runs store their config as YAML; write reproduce=RUN"
        )
    if found.run and found.multirun:
        problems.append("--run and --multirun: a command is either one run or a sweep; leave one of them out")
    if found.cfg is None and not found.hydra_help:
        for flag, given in (("--resolve", found.resolve), ("--package", found.package)):
            problems += (
                [f"{flag}: it needs --cfg, since it controls how a config is shown; add --cfg job"] if given else []
            )
    if found.shell_completion and not any(word.startswith(COMPLETION) for word in found.overrides):
        problems.append("--shell-completion: it needs a shell, install=bash, zsh or fish; see --help for the command")
    if problems:
        raise ConfigError(problems)
