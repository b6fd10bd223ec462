"""The config.yaml that a run keeps of itself."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from ssl_runner.config.renamed import with_current_names
from ssl_runner.errors import ConfigError


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
    return as_written(with_current_names(content)[0])


def as_written(content: Mapping[str, Any]) -> DictConfig:
    """Plain values as a config, none of them taken for an interpolation."""
    config: Any = OmegaConf.create(_literal(content))
    return config


def _literal(value: Any) -> Any:
    """A plain value with all that OmegaConf would take for an interpolation escaped."""
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if not isinstance(value, str):
        return value
    # a backslash before ${ escapes it, and one before that stands for itself
    escaped = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)
    return escaped
