"""Problems of option files, with the file's name: Hydra shows an internal message, and often no file name."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from hydra.errors import HydraException

from ssl_runner.cli.compose import EXPERIMENT, Composer

HEAD = "@package _global_"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def complaints(composer: Composer, overrides: Sequence[str]) -> list[str]:
    """Problems of the files that a command line selects."""
    return [text for path in dict.fromkeys(_selected(composer, overrides)) if (text := complaint(path)) is not None]


def all_complaints(composer: Composer) -> list[str]:
    """Problems of every option file, since one file may be named in another's defaults list."""
    paths = [path for folder in composer.folders for path in sorted(folder.rglob("*.yaml"))]
    return [text for path in paths if (text := complaint(path)) is not None]


def complaint(path: Path) -> str | None:
    """One sentence about the file's problem, or None for a file that Hydra can read."""
    content = path.read_bytes()
    if content.startswith(b"\xef\xbb\xbf"):
        return f"{path} begins with a byte-order mark, which hides its first line; save it as UTF-8 without one"
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return f"{path} is not UTF-8 (byte {content[error.start]:#x} in line {line}); save it as UTF-8"
    try:
        loaded = yaml.load(text, LOADER)
    except yaml.YAMLError as error:
        return f"{path} is not valid YAML{_where(error)}"
    is_experiment = path.parent.name == EXPERIMENT
    if loaded is None and is_experiment:
        return f"{path} is empty; write '# {HEAD}' and what the experiment sets, or delete it"
    if loaded is not None and not isinstance(loaded, dict):
        kind = "a list" if isinstance(loaded, list) else "plain text"
        return f"{path} is {kind}, expected keys and values, for example name: mine"
    head = [line for line in text.splitlines() if line.strip()][:5]
    if is_experiment and not any(line.startswith("#") and HEAD in line for line in head):
        return f"{path} lacks the line '# {HEAD}' at its top, so its keys would not reach the run; add it"
    return None


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
    tab = "; indent with spaces, not with tabs" if "\\t" in problem else ""
    return f"{place}: {problem}{tab}"


def _selected(composer: Composer, overrides: Sequence[str]) -> Iterator[Path]:
    try:
        parsed = composer.parse(overrides)
    except HydraException:  # reported elsewhere
        return
    for override in parsed:
        value = override.value()
        for option in value if isinstance(value, list) else [value]:
            if isinstance(option, str) and (path := composer.file(override.key_or_group, option)) is not None:
                yield path
