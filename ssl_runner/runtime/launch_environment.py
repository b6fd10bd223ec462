"""How this process was started: alone, or as one of several by torchrun. Does not import torch, which is slow."""

import os
import shlex
import sys
from pathlib import Path


def size() -> int:
    """The number of processes of this run."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return 1
    return int(os.environ["WORLD_SIZE"])


def rank() -> int:
    """The number of this process; process 0 prints and writes for all."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def local_rank() -> int:
    """The number of this process on its host, which is also that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if size() > 1 else 0


def words() -> list[str]:
    """The words that start the program in the same way as this process."""
    if size() == 1:
        return ["ssl-train"]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", size()))
    hosts = [f"--nnodes={size() // here}"] if here < size() else []
    return ["torchrun", *hosts, f"--nproc-per-node={here}", "-m", "ssl_runner.train"]


def in_utf8() -> None:
    """Restart this program in Python's UTF-8 mode if the locale has another encoding (``LC_ALL=C``).

    Otherwise the names of classes and folders would be limited to ASCII. The console keeps its encoding and escapes
    characters that it cannot show.
    """
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8":
        return
    console = getattr(sys.stdout, "encoding", None) or "ascii"
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{console}:backslashreplace"}
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def how_to_go_on(folder: Path) -> str:
    """``resume with:`` and the command that resumes the run in this folder."""
    return f"resume with: {shlex.join([*words(), f'resume={folder}'])}"
