"""Makes the paths in a config absolute and expands ``~``, so that they are valid in any working folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_runner.config.signatures import paths_of
from ssl_runner.config.targets import locate


def with_absolute_paths(node: Any) -> Any:
    """A plain config in which every path that a constructor annotates as a path (`PathText`) is absolute.

    A run that is resumed or reproduced from another working folder then finds its data.
    """
    if isinstance(node, list):
        return [with_absolute_paths(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    result = {key: with_absolute_paths(item) for key, item in node.items()}
    if isinstance(node.get("_target_"), str):
        for key in paths_of(locate(node["_target_"])):
            if isinstance(result.get(key), str):
                result[key] = str(Path(result[key]).expanduser().absolute())
    return result


def absolute(path: str | Path) -> Path:
    """The absolute path with ``~`` expanded, fit for a message."""
    return Path(path).expanduser().absolute()
