"""A command line with ``resume=RUN`` or ``reproduce=RUN``, which takes its config from that run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ssl_runner.cli.app import App, Config, run_in
from ssl_runner.config.hashing import END, config_difference, flatten
from ssl_runner.config.schema import check
from ssl_runner.config.stored import read_config, run_around
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import ConfigError


def resume(app: App, folder: Path, overrides: Sequence[str], multirun: bool) -> int:
    """Continue a run in its folder, with its config. Returns the exit code."""
    config = resumed_config(folder, overrides, "resume", multirun)
    prepared = app.prepare(config)
    if config.get("dry_run"):
        app.rehearse(prepared)
    else:
        run_in(folder, app, config, prepared)
    return 0


def named_folder(overrides: Sequence[str], word: str) -> Path | None:
    """The folder that ``resume=RUN`` or ``reproduce=RUN`` names, read literally: paths need not fit Hydra's grammar.

    Raises:
        ConfigError: The value is empty.
    """
    for override in reversed(overrides):
        key, _, value = override.partition("=")
        if key == word:
            value = value.strip("'\"")
            if not value:
                raise ConfigError([f"{word}= names no run; give outputs/NAME/RUN, or leave it out"])
            # auto: whatever is in the folder can be resumed, but not reproduced
            none = ("auto", "null", "None") if word == "resume" else ("null", "None")
            return None if value in none else Path(value).expanduser()
    return None


def resumed_config(folder: Path, overrides: Sequence[str], word: str, multirun: bool) -> Config:
    """The config of the run that ``word=folder`` names, with overrides of keys that cannot change its result.

    Raises:
        ConfigError: There is no such run, or an override could change its result.
    """
    who, path = f"{word}={folder}", folder / "config.yaml"
    if multirun:
        raise ConfigError([f"{who}: it works on one run, not on a sweep; leave out -m"])
    overrides = [override for override in overrides if not override.startswith(f"{word}=")]
    if (run := run_around(folder)) is not None:
        raise ConfigError([f"{who}: this path is inside a run; give the run's folder: {word}={run}"])
    if not path.is_file():
        lack = "has no config.yaml, so it is not a run folder" if folder.is_dir() else "does not exist"
        raise ConfigError([f"{who}: {folder.absolute()} {lack}; give outputs/NAME/RUN"])
    config = read_config(path, who)
    before = check(config)
    override_values(config, overrides, who)
    after = check(config)
    # the checkpoint decides whether the run's end can be changed
    changes = config_difference(before, after, but=END if word == "resume" else ())
    if changes:
        raise ConfigError(
            [f"{who}: {change}, but that run keeps its own config; start a new run" for change in changes]
        )
    return after | {"resume": str(folder) if word == "resume" else None}


def override_values(config: Any, overrides: Sequence[str], who: str) -> None:
    """Set values of a stored config; raises ConfigError for words that select options, or that it has no key for."""
    from hydra.errors import HydraException

    from ssl_runner.cli.hydra_private import parse

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
            problems.append(f"{who}: {line} cannot be set on an existing run{hint}")
        else:
            OmegaConf.update(config, key, override.value())
    if problems:
        raise ConfigError(problems)
