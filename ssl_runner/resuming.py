"""A command line with ``resume=RUN`` or ``reproduce=RUN``: the config is the run's own."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ssl_runner.config import END, ConfigError, config_difference, flatten
from ssl_runner.program import Config, Program, run_in
from ssl_runner.schema import check
from ssl_runner.spelling import did_you_mean


def resume(program: Program, folder: Path, overrides: Sequence[str], multirun: bool) -> int:
    """Run on in the folder of a run, with its config. Gives the exit code."""
    config = resumed_config(folder, overrides, "resume", multirun)
    prepared = program.prepare(config)
    if config.get("dry_run"):
        program.rehearse(prepared)
    else:
        run_in(folder, program, config, prepared)
    return 0


def named_folder(overrides: Sequence[str], word: str) -> Path | None:
    """The run that ``resume=RUN`` or ``reproduce=RUN`` names, as it stands: paths need not please Hydra's grammar.

    Raises:
        ConfigError: It names none.
    """
    for override in reversed(overrides):
        key, _, value = override.partition("=")
        if key == word:
            value = value.strip("'\"")
            if not value:
                raise ConfigError([f"{word}= names no run; give outputs/NAME/RUN, or leave it out"])
            # what is there already can be gone on with, but not run again
            none = ("auto", "null", "None") if word == "resume" else ("null", "None")
            return None if value in none else Path(value).expanduser()
    return None


def resumed_config(folder: Path, overrides: Sequence[str], word: str, multirun: bool) -> Config:
    """The config of the run that ``word=folder`` names, with overrides of what cannot change its result.

    Raises:
        ConfigError: There is no run, or an override is not of that kind.
    """
    who, path = f"{word}={folder}", folder / "config.yaml"
    if multirun:
        raise ConfigError([f"{who}: it is about one run; leave -m out"])
    overrides = [override for override in overrides if not override.startswith(f"{word}=")]
    if (run := run_around(folder)) is not None:
        raise ConfigError([f"{who}: that lies in a run; give the run's folder: {word}={run}"])
    if not path.is_file():
        lack = "has no config.yaml, so it is no run folder" if folder.is_dir() else "does not exist"
        raise ConfigError([f"{who}: {folder.absolute()} {lack}; give outputs/NAME/RUN"])
    config = read_config(path, who)
    before = check(config)
    _override(config, overrides, who)
    after = check(config)
    # whether a run can be given another end, its checkpoint tells
    changes = config_difference(before, after, but=END if word == "resume" else ())
    if changes:
        raise ConfigError(
            [f"{who}: {change}, but that run keeps its own config; start a new run" for change in changes]
        )
    return after | {"resume": str(folder) if word == "resume" else None}


def run_around(path: Path) -> Path | None:
    """The run in whose folder a file or a folder lies, a checkpoint for example; None where that is no run's."""
    if (path / "config.yaml").is_file() or not path.exists():
        return None
    above = list(path.absolute().parents)[:2]  # RUN/checkpoints/last.pt
    return next((folder for folder in above if (folder / "config.yaml").is_file()), None)


def read_config(path: Path, who: str) -> DictConfig:
    """The config.yaml of a run, every value as it was.

    It was written resolved, by PyYAML, and is read by PyYAML: OmegaConf has another rule for what looks like a number,
    and would follow a ``${oc.env:NAME}`` of a stranger's run into the reader's environment.

    Raises:
        ConfigError: Beginning with ``who``, where it is none.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{who}: {path} cannot be read ({' '.join(str(error).split())})"]) from None
    if not isinstance(content, dict):
        raise ConfigError([f"{who}: {path} is not the config of a run"])
    config: Any = OmegaConf.create(_literal(content))
    return config


def _literal(value: Any) -> Any:
    """A plain value with all that OmegaConf would take for an interpolation escaped."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if not isinstance(value, str):
        return value
    # a backslash before ${ escapes it, and one before that stands for itself
    escaped = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)
    return escaped


def _override(config: Any, overrides: Sequence[str], who: str) -> None:
    from hydra.errors import HydraException

    from ssl_runner.composition import parse

    problems, keys = [], list(flatten(OmegaConf.to_container(config)))
    try:
        parsed = parse(overrides)
    except HydraException as error:
        raise ConfigError([f"{who}: {error}"]) from error
    for override in parsed:
        key, line = override.key_or_group, override.input_line
        if "/" in key or OmegaConf.is_dict(OmegaConf.select(config, key)):
            problems.append(f"{who}: {line} selects another option, but that run keeps its own config; start a new run")
        elif key not in keys or override.is_add() or override.is_delete() or override.is_sweep_override():
            hint = did_you_mean(key, keys) if key not in keys else "; give one plain value"
            problems.append(f"{who}: {line} cannot be set on a run that is there{hint}")
        else:
            OmegaConf.update(config, key, override.value())
    if problems:
        raise ConfigError(problems)
