"""Packages of losses, algorithms, datasets and configs that come from elsewhere, and are trusted.

An installed distribution names its package in the entry point group ``ssl_runner.plugins``; for what is not installed,
or for a single module, ``SSL_RUNNER_TRUSTED=PACKAGE,...`` does the same. No plugin is imported to find it.
"""

import importlib.util
import os
import re
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from ssl_runner.errors import ConfigError, printable

GROUP = "ssl_runner.plugins"
VARIABLE = "SSL_RUNNER_TRUSTED"


def packages() -> tuple[str, ...]:
    """Dotted names, in the order of the alphabet: of installed plugins, and of what SSL_RUNNER_TRUSTED names."""
    named = re.split(r"[,:]", os.environ.get(VARIABLE, ""))
    return tuple(sorted({*_installed(), *(name.strip() for name in named if name.strip())}))


@cache
def _installed() -> tuple[str, ...]:
    return tuple(entry.value.partition(":")[0].strip() for entry in entry_points(group=GROUP))


def conf_folders() -> list[Path]:
    """The ``conf`` folder of each package that has one.

    Raises:
        ConfigError: An installed plugin's package is not there.
    """
    found = []
    for name in packages():
        for folder in _locations(name):
            if (folder / "conf").is_dir():
                found.append((folder / "conf").absolute())
    return found


def _locations(name: str) -> list[Path]:
    """Folders of a package; none for a module, or for the name of a class."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # PACKAGE.Class, or a parent that is no package
        spec = None
    if spec is None and name in _installed():
        raise ConfigError(
            [f"the plugin {printable(name)} is installed, but its package is not there; install it anew, or remove it"]
        )
    return [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
