"""A command line with ``resume=RUN``: config and folder are the run's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_runner.config import ConfigError, config_difference, flatten
from ssl_runner.schema import check
from ssl_runner.spelling import did_you_mean


def resumed_folder(overrides: Sequence[str]) -> Path | None:
    """The run that ``resume=RUN`` names, taken as it stands: paths need not please Hydra's grammar."""
    for override in reversed(overrides):
        key, _, value = override.partition("=")
        if key == "resume":
            value = value.strip("'\"")
            return None if value in ("auto", "null", "None", "") else Path(value).expanduser()
    return None


def resumed_config(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The config of a run, with overrides of what cannot change its result.

    Raises:
        ConfigError: There is no run, or an override is not of that kind.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        lack = "has no config.yaml, so it is no run folder" if folder.is_dir() else "does not exist"
        raise ConfigError([f"resume={folder}: {folder.absolute()} {lack}; give outputs/NAME/RUN"])
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig), path
    before = check(config)
    _override(config, overrides, f"resume={folder}")
    after = check(config)
    changes = config_difference(before, after)
    if changes:
        raise ConfigError(
            [f"resume={folder}: {change}, but a resumed run keeps its own; start a new run" for change in changes]
        )
    return after | {"resume": str(folder)}


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
            problems.append(f"{who}: {line} selects another option, but a resumed run keeps its own; start a new run")
        elif key not in keys or override.is_add() or override.is_delete() or override.is_sweep_override():
            hint = did_you_mean(key, keys) if key not in keys else "; give one plain value"
            problems.append(f"{who}: {line} cannot be set on a run that is there{hint}")
        else:
            OmegaConf.update(config, key, override.value())
    if problems:
        raise ConfigError(problems)
