"""Starts jobs as forks of a server that has imported torch, which saves each job the seconds of an import.

Only on Linux: on macOS, a fork of a process that has used system libraries may crash, and Windows has none. Only
without GPUs: an import that asks for them in the server would make them unusable in its forks.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

# torch._dynamo comes with every optimizer, and takes as long as torch
_IMPORTED = ["torch._dynamo", "torch.func", "ssl_runner.wiring.wire", "ssl_runner.training.session"]


def possible(gpus: Sequence[str]) -> bool:
    """Whether jobs can be forked on a machine with these GPUs."""
    return sys.platform.startswith("linux") and not gpus


def prepare() -> None:
    """Start the server, which imports while this process does something else."""
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED, "ssl_runner.report.stages"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C must not end the server while it imports
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def start(arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> BaseProcess:
    """Start ``ssl-train ARGUMENTS`` in a fork of the server.

    Args:
        environment: Replaces the server's.
        output: The file that takes what it prints.

    Raises:
        OSError, EOFError: The server has died.
    """
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_live, args=(list(arguments), dict(environment), output))
    process.start()
    return process


def _live(arguments: list[str], environment: dict[str, str], output: Path) -> None:
    end_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    source = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((source, target, target)):
        os.dup2(file, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # which torch read when the server imported it
    sys.argv = ["ssl-train", *arguments]
    runpy.run_module("ssl_runner.train", run_name="__main__")


def end_with_parent() -> None:
    """Let this process get SIGTERM, on which a run saves and ends, when its parent is killed. Only on Linux."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
