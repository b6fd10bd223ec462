"""Child processes of tests.

They are forked from a server that has imported torch already: a fresh interpreter takes seconds to do so, and a fork of
the test process may not compute at all once that has used threads or a GPU.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Deed = Callable[[], None]

_server = multiprocessing.get_context("forkserver")
# torch._dynamo comes with torch.func.grad, and takes longer than torch
_PRELOADED = ["torch._dynamo", "torch.func", "sklearn.datasets", "ssl_runner.wiring.wire", "ssl_runner.report.exhibits"]
_server.set_forkserver_preload([*_PRELOADED, "warmed"])


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, which for a signal is minus its number, and what it printed."""

    code: int
    out: str
    err: str


class Child:
    """A process that calls ``deed()`` and then ``work(*arguments)``, with the environment of this process.

    Args:
        logs: A folder for its output.
        deed: The event that happens to it; a function or a partial of one, since it is pickled.
    """

    def __init__(self, logs: Path, work: Callable[..., Any], *arguments: Any, deed: Deed | None = None) -> None:
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self.process = _server.Process(target=_live, args=(logs, dict(os.environ), deed, work, arguments))
        self.process.start()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self) -> Ended:
        """Wait until it ends."""
        self.process.join(300)
        assert self.process.exitcode is not None, "the child hangs"
        return Ended(self.process.exitcode, *((self.logs / name).read_text() for name in ("stdout", "stderr")))


def run(config: dict[str, Any], folder: Path, deed: Deed | None = None) -> Ended:
    """Call ``train.run`` in a child."""
    return Child(folder.parent / f"{folder.name}.logs", _run, config, folder, deed=deed).ended()


def command(logs: Path, arguments: Sequence[str], deed: Deed | None = None) -> Ended:
    """Run ``ssl-train ARGUMENTS`` in a child."""
    return Child(logs, type_in, list(arguments), deed=deed).ended()


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def pair(logs: Path, work: Callable[..., Any], *arguments: Any, deed: Deed | None = None) -> list[Child]:
    """Two processes of one run, which call ``work(*arguments)``."""
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port(), "LOCAL_WORLD_SIZE": "2"}
    started = []
    for rank in ("0", "1"):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (meeting | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}).items():
                patch.setenv(name, value)
            started.append(Child(logs / rank, work, *arguments, deed=deed))
    return started


def evaluation(logs: Path, arguments: Sequence[str], deed: Deed | None = None) -> Ended:
    """Run ``ssl-eval ARGUMENTS`` in a child."""
    return Child(logs, _type_in_eval, list(arguments), deed=deed).ended()


def _live(logs: Path, environment: dict[str, str], deed: Deed | None, work: Callable[..., Any], arguments) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup ignore it
    if deed is not None:
        deed()
    try:
        work(*arguments)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _run(config: dict[str, Any], folder: Path) -> None:
    from ssl_runner import train

    train.run(config, folder)


def type_in(arguments: list[str]) -> None:
    """Do what the console command does."""
    from ssl_runner import train

    sys.argv = ["ssl-train", *arguments]
    train.main()


def type_in_torchrun(arguments: list[str]) -> None:
    """Do what ``torchrun`` does."""
    from torch.distributed import run

    run.main(arguments)


def _type_in_eval(arguments: list[str]) -> None:
    from ssl_runner.commands import evaluate

    sys.argv = ["ssl-eval", *arguments]
    evaluate.main()


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "the condition was never true"
        time.sleep(0.01)
