"""The provenance of a result: code and machine."""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_runner.runtime import launch_environment

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).resolve().parents[1]


def hardware(device: "torch.device") -> dict[str, Any]:
    """The name of the device, the processor and the threads."""
    import torch  # the command line must not wait for it

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": str(device),
        "name": name,
        "threads": torch.get_num_threads(),
        "processes": launch_environment.size(),
        "cpus": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
    }


def command() -> str:
    """The command line of this process, quoted so that it can be run again."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def write_diff(folder: Path) -> None:
    """Write folder/changes.patch if package or configs differ from the commit; ``git apply`` restores the changes."""
    state = git()
    if state is None or not state["dirty"]:
        return
    root, places = Path(_git(PACKAGE, "rev-parse", "--show-toplevel") or PACKAGE), ("--", ".", "../conf")
    new = _git(PACKAGE, "ls-files", "--others", "--exclude-standard", "--full-name", *places) or ""
    diffs = [(PACKAGE, ["HEAD", *places]), *((root, ["--no-index", "/dev/null", name]) for name in new.splitlines())]
    with (folder / "changes.patch").open("wb") as file:
        for where, arguments in diffs:
            file.write(subprocess.run(["git", "diff", "--binary", *arguments], cwd=where, capture_output=True).stdout)


def git() -> dict[str, Any] | None:
    """The commit of this package's checkout and whether there are changes; None for an installed wheel."""
    try:
        if _git(PACKAGE, "ls-files", "--error-unmatch", "__init__.py") is None:
            return None  # the checkout of another project, with a virtual environment in it
        # only the package and its configs can change a result
        changes = _git(PACKAGE, "status", "--porcelain", "--", ".", "../conf")
        return {"commit": _git(PACKAGE, "rev-parse", "HEAD"), "dirty": bool(changes)}
    except OSError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
