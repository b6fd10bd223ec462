"""Finds the conf folders: our own, and those of plugins."""

from pathlib import Path

from ssl_runner.config import plugins
from ssl_runner.errors import ConfigError


def conf_folder() -> Path:
    """The conf folder: in the package in a wheel, at the repository's root in a checkout."""
    here = Path(__file__).resolve().parents[1]  # the package
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError([f"there is no conf folder in {here} or beside it; reinstall ssl-runner"])


def plugin_folders() -> list[Path]:
    """The conf folders of plugins, which are searched after our own.

    Raises:
        ConfigError: A plugin has an option that already exists, so one of the two could never be selected.
    """
    found, owners = plugins.conf_folders(), dict.fromkeys(_options(conf_folder()), "ssl_runner")
    for folder in found:
        for option in _options(folder):
            if option in owners:
                raise ConfigError(
                    [f"{folder / option}.yaml: {owners[option]} also has an option {option}; give it another name"]
                )
            owners[option] = folder.parent.name
    return found


def _options(folder: Path) -> list[str]:
    """``group/option`` for every file."""
    return [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]
