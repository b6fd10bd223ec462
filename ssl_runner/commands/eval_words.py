"""The words of ``ssl-eval``: which are encoders, which are overrides, which name a suite."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ssl_runner.cli import search_path
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import ConfigError

# what an evaluation may set; the rest of a config is about training
TAKEN = ("dataset", "eval", "trainer.device", "trainer.threads", "experiment", "suite")
_KEY = re.compile(r"[+~]{0,2}([A-Za-z_][\w.]*(?:[/@][\w./@]+)?)(=.*)?", re.DOTALL)


@dataclass(frozen=True)
class Words:
    """A parsed command line.

    Attributes:
        encoders: As they were given.
        overrides: Hydra's words.
        suite: Name of a suite, or None.
        again: Whether evaluations that are there are computed once more.
        json: Whether the output is JSON.
        config_dir: A folder with further options and suites, or None.
    """

    encoders: list[str]
    overrides: list[str]
    suite: str | None = None
    again: bool = False
    json: bool = False
    config_dir: Path | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError([message])


def read(arguments: Sequence[str]) -> Words:
    """The words of a command line.

    Raises:
        ConfigError: A flag is unknown or lacks its value.
    """
    parser = _Parser(add_help=False, allow_abbrev=False, prog="ssl-eval")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    found, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        raise ConfigError(
            [f"{word}: there is no such flag{did_you_mean(word, known) or '; see ssl-eval --help'}" for word in unknown]
        )
    encoders, overrides, suite = sorted_out(found.words)
    return Words(encoders, overrides, suite, found.again, found.json, found.config_dir)


def sorted_out(words: Sequence[str]) -> tuple[list[str], list[str], str | None]:
    """Encoders, overrides and the suite; a path may have a = in it, as the folders of a sweep's jobs do."""
    overrides = [word for word in words if _is_override(word)]
    suites = [word.partition("=")[2] for word in overrides if word.startswith("suite=")]
    encoders = [word for word in words if word not in overrides]
    return (
        list(dict.fromkeys(encoders)),
        [word for word in overrides if not word.startswith("suite=")],
        (suites[-1] if suites else None),
    )


def _is_override(word: str) -> bool:
    found = _KEY.fullmatch(word)
    if found is None or word.startswith("~/") or Path(word).exists():
        return False
    if found[2] is None:
        return word[0] in "+~"
    # outputs/NAME/lr=0.1 that does not exist is a path all the same; groups with a slash are about training
    return "/" not in found[1] or found[1].partition("/")[0] in ("model", "hydra") or "@" in found[1]


def key_of(word: str) -> str:
    """The key or group that a word is about."""
    return word.lstrip("+~").partition("=")[0]


def refuse_others(overrides: Sequence[str]) -> None:
    """Raises ConfigError for words that are about training."""
    problems = []
    for word in overrides:
        key = key_of(word).partition("@")[0]
        if not any(key == taken or key.startswith(f"{taken}.") for taken in TAKEN):
            hint = did_you_mean(key, TAKEN) or f"; it takes {', '.join(TAKEN)}"
            problems.append(f"{word}: an evaluation has no such key{hint}")
    if problems:
        raise ConfigError(problems)


def rows_of(suite: str, config_dir: Path | None) -> dict[str, list[str]]:
    """The rows of a suite, conf/suite/NAME.yaml, and the words of each.

    Raises:
        ConfigError: There is no such suite, or its file is not one.
    """
    extra = [] if config_dir is None else [config_dir]
    folders = [folder / "suite" for folder in (search_path.conf_folder(), *search_path.plugin_folders(), *extra)]
    found = {path.stem: path for folder in reversed(folders) for path in folder.glob("*.yaml")}
    if suite not in found:
        hint = did_you_mean(suite, found) or ";"
        raise ConfigError([f"suite={suite}: there is no such suite{hint} suites: {', '.join(sorted(found))}"])
    path = found[suite]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{path} cannot be read ({' '.join(str(error).split())})"]) from None
    if not isinstance(content, dict) or not _is_suite(content):
        raise ConfigError(
            [f"{path} is not a suite; write rows: {{NAME: [dataset=OPTION, key=value]}}, and words: [...]"]
        )
    return {str(name): [*content.get("words", []), *words] for name, words in content["rows"].items()}


def _is_suite(content: dict[Any, Any]) -> bool:
    rows = content.get("rows")
    lists = [content.get("words", []), *(rows.values() if isinstance(rows, dict) else [None])]
    return (
        bool(rows)
        and content.keys() <= {"rows", "words"}
        and all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists)
    )


def over(words: Sequence[str], typed: Sequence[str]) -> list[str]:
    """The words of a suite's row under those that were typed, which replace the same keys."""
    keys = {key_of(word) for word in typed}
    kept = [word for word in words if key_of(word) not in keys]
    return [*kept, *typed]
