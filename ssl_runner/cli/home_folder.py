"""Expands ``~`` to the home folder where no shell has done so."""

import os
import re
from collections.abc import Sequence

VARIABLES = ("SSL_RUNNER_DATA", "SSL_RUNNER_OUTPUTS", "SSL_RUNNER_CACHE")


# last parts of keys whose values are paths
PATHS = ("root", "class_split", "encoder", "dir", "resume", "reproduce", "weights")


_VALUE = re.compile(r"(?P<key>[^=]+)=(?P<quote>['\"]?)(?P<value>~.*?)(?P=quote)")


_HOME = re.compile(r"(?<![^,\[\s])~[\w.-]*(?=/|,|\]|$)")


_SPECIAL = re.compile(r"([\\()\[\]{}:=, \t'\"])")


def settle_environment() -> None:
    """Expand ``~`` in the program's environment variables; an empty variable counts as unset."""
    for name in VARIABLES:
        value = os.environ.get(name)
        if value is None:
            continue
        if value.strip():
            os.environ[name] = os.path.expanduser(value)
        else:
            del os.environ[name]


def with_homes(overrides: Sequence[str]) -> list[str]:
    """Overrides with ``~`` expanded at the start of values, since Hydra's grammar does not allow it.

    Unquoted values are expanded for every key, as is each value of a sweep or a list; quoted ones only if the key is a
    path.
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
