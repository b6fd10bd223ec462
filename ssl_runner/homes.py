"""``~`` for the home folder, where no shell has filled it in, and paths of a config that hold in any working folder."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_runner.signatures import paths_of
from ssl_runner.targets import locate

VARIABLES = ("SSL_RUNNER_DATA", "SSL_RUNNER_OUTPUTS", "SSL_RUNNER_CACHE")
# last parts of keys whose values are paths
PATHS = ("root", "class_split", "encoder", "dir", "resume", "reproduce")

_VALUE = re.compile(r"(?P<key>[^=]+)=(?P<quote>['\"]?)(?P<value>~.*?)(?P=quote)")
_HOME = re.compile(r"(?<![^,\[\s])~[\w.-]*(?=/|,|\]|$)")
_SPECIAL = re.compile(r"([\\()\[\]{}:=, \t'\"])")


def settle_environment() -> None:
    """Fill in ``~`` in the program's variables of the environment; an empty one counts as none."""
    for name in VARIABLES:
        value = os.environ.get(name)
        if value is None:
            continue
        if value.strip():
            os.environ[name] = os.path.expanduser(value)
        else:
            del os.environ[name]


def with_homes(overrides: Sequence[str]) -> list[str]:
    """Overrides with ``~`` filled in where a value begins with it: Hydra's grammar has no use for it.

    Unquoted in every key, and in each value of a sweep or a list; quoted where the key is a path.
    """
    return [_with_home(override) for override in overrides]


def _with_home(override: str) -> str:
    found = _VALUE.fullmatch(override)
    if found is None or (found["quote"] and found["key"].rpartition(".")[2].lstrip("+") not in PATHS):
        return override
    if found["quote"]:
        return f"{found['key']}={found['quote']}{os.path.expanduser(found['value'])}{found['quote']}"
    filled = _HOME.sub(lambda home: _SPECIAL.sub(r"\\\1", os.path.expanduser(home[0])), found["value"])
    return f"{found['key']}={filled}"


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
