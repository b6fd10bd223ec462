"""``~`` for the home folder, where no shell has filled it in, and paths of a config that hold in any working folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_runner.config.signatures import paths_of
from ssl_runner.config.targets import locate


def with_absolute_paths(node: Any) -> Any:
    """A plain config in which every path that a constructor annotates as one (`PathText`) is absolute.

    A run that is gone on with or reproduced from another working folder then finds its data.
    """
    if isinstance(node, list):
        return [with_absolute_paths(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    made = {key: with_absolute_paths(item) for key, item in node.items()}
    if isinstance(node.get("_target_"), str):
        for key in paths_of(locate(node["_target_"])):
            if isinstance(made.get(key), str):
                made[key] = str(Path(made[key]).expanduser().absolute())
    return made


def absolute(path: str | Path) -> Path:
    """The path with ``~`` filled in, not relative to anything: fit for a message."""
    return Path(path).expanduser().absolute()
