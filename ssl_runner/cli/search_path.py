"""Finds the conf folder."""

from pathlib import Path

from ssl_runner.errors import ConfigError


def conf_folder() -> Path:
    """The conf folder: in the package in a wheel, at the repository's root in a checkout."""
    here = Path(__file__).resolve().parents[1]  # the package
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError([f"no conf folder beside {here} or in it; install ssl-runner anew"])
