"""Versions of the packages that can change a result."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("ssl-runner", "torch", "torchvision", "numpy", "hydra-core", "scikit-learn", "pillow")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["torch"] = str(torch.__version__)  # includes the build; str, because torch has its own class for it
    return found
