"""How this process was started: alone, or as one of several by torchrun. Told without torch, which imports slowly."""

import os
import shlex
import sys
from pathlib import Path


def size() -> int:
    """Processes of this run."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return 1
    return int(os.environ["WORLD_SIZE"])


def rank() -> int:
    """This one's number; number 0 speaks and writes for all."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def local_rank() -> int:
    """Its number on this host, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if size() > 1 else 0


def words() -> list[str]:
    """What starts the program as it was started."""
    if size() == 1:
        return ["ssl-train"]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size()))
    hosts = [f"--nnodes={size() // here}"] if here < size() else []
    return ["torchrun", *hosts, f"--nproc-per-node={here}", "-m", "ssl_runner.train"]


def in_utf8() -> None:
    """Start this program again in Python's UTF-8 mode, where the locale is of another encoding (``LC_ALL=C``).

    Else neither names of classes nor folders could be anything but ASCII. The console keeps its encoding, and shows
    escaped what it lacks.
    """
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8":
        return
    console = getattr(sys.stdout, "encoding", None) or "ascii"
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{console}:backslashreplace"}
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def how_to_go_on(folder: Path) -> str:
    """Ready to be typed."""
    return f"resume with: {shlex.join([*words(), f'resume={folder}'])}"
