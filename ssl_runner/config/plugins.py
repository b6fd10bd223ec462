"""Trusted packages from elsewhere with losses, algorithms, datasets and configs.

An installed distribution names its package in the entry point group ``ssl_runner.plugins``. For packages that are not
installed, or for a single module, ``SSL_RUNNER_TRUSTED=PACKAGE,...`` does the same. No plugin is imported to find it.
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
    """Dotted names of installed plugins and of the packages in SSL_RUNNER_TRUSTED, in alphabetical order."""
    named = re.split(r"[,:]", os.environ.get(VARIABLE, ""))
    return tuple(sorted({*_installed(), *(name.strip() for name in named if name.strip())}))


@cache
def _installed() -> tuple[str, ...]:
    return tuple(entry.value.partition(":")[0].strip() for entry in entry_points(group=GROUP))


def conf_folders() -> list[Path]:
    """The ``conf`` folder of each package that has one.

    Raises:
        ConfigError: An installed plugin's package is missing.
    """
    found = []
    for name in packages():
        for folder in _locations(name):
            if (folder / "conf").is_dir():
                found.append((folder / "conf").absolute())
    return found


def _locations(name: str) -> list[Path]:
    """The folders of a package; none for a module or the name of a class."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # PACKAGE.Class, or a parent that is not a package
        spec = None
    if spec is None and name in _installed():
        raise ConfigError(
            [f"the plugin {printable(name)} is installed, but its package is missing; reinstall or uninstall it"]
        )
    return [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
