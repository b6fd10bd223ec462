"""The peers: each is installed once into an environment of its own, and its part runs there."""

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from . import measure
from .row import Settings

Result = TypeVar("Result")
REQUIREMENTS = {
    "lightly": ["lightly==1.6.0", "torch", "torchvision"],
    "faiss": ["faiss-cpu==1.15.1", "numpy"],
    "scikit-learn": ["scikit-learn", "numpy"],
    "joblib": ["hydra-joblib-launcher==1.2.0", "--no-deps"],  # a plugin, for our environment: see `plugins`
}
OF_OURS = ("torch", "torchvision", "scikit-learn", "numpy")  # the same versions in all environments
missing: set[str] = set()  # those that could not be installed


def name(peer: str) -> str:
    """The peer with its version."""
    if peer not in REQUIREMENTS:  # installed with ours
        return f"{peer} {importlib.metadata.version(peer)}"
    (requirement, *_) = wanted(peer)
    return requirement.replace("==", " ")


def wanted(peer: str) -> list[str]:
    """What pip is asked for."""
    return [
        f"{one}=={importlib.metadata.version(one).partition('+')[0]}" if one in OF_OURS else one
        for one in REQUIREMENTS[peer]
    ]


def interpreter(folder: Path, peer: str) -> str | None:
    """The peer's Python, whose environment is made if it is not there; None, after a line, if that fails."""
    environment = folder / peer
    python, done, asked = environment / "bin" / "python", environment / "installed.txt", "\n".join(wanted(peer))
    if done.exists() and done.read_text() == asked:
        return str(python)
    if peer in missing:
        return None
    print(f"{peer} is installed into {environment}", file=sys.stderr)
    # uv takes seconds where pip takes minutes
    pip = (
        ["uv", "pip", "install", "--python", str(python)]
        if shutil.which("uv")
        else [str(python), "-m", "pip", "install"]
    )
    for command in ([sys.executable, "-m", "venv", "--clear", str(environment)], [*pip, *wanted(peer)]):
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        if told.returncode:
            print(
                f"{peer} is left out, because this failed: {' '.join(command)}\n{told.stderr[-500:]}", file=sys.stderr
            )
            missing.add(peer)
            return None
    done.write_text(asked)
    return str(python)


def plugins(settings: Settings, peer: str) -> str | None:
    """The folder that a Python path needs for the peer, if there is one."""
    python = None if settings.peers is None else interpreter(settings.peers, peer)
    return python and str(next(Path(python).parents[1].glob("lib/python*/site-packages")))


def parts(
    settings: Settings, of: dict[str, Callable[..., Result]], *arguments: object
) -> dict[str, Callable[[], Result]]:
    """Of parts by peer, those whose peer there is, as calls that run them in its environment."""
    found = {}
    for peer, part in of.items():
        python = None if settings.peers is None else interpreter(settings.peers, peer)
        if python:
            found[peer] = lambda part=part, python=python: measure.apart(settings, part, *arguments, python=python)
    return found
