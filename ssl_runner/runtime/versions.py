"""Versions of the packages that can change a result."""

import functools
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("ssl-runner", "torch", "torchvision", "numpy", "hydra-core", "scikit-learn", "pillow")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()} | {package: _installed(package) for package in _PACKAGES}
    found["torch"] = str(torch.__version__)  # includes the build; str, because torch has its own class for it
    return found


@functools.cache
def _installed(package: str) -> str:
    """Read once in a process, which has imported the packages as they were."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
