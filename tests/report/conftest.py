"""A real TensorBoard server, queried like its web page does."""

import importlib.util
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LOADERS = ("python", "fast")
DEADLINE = 30.0  # seconds, for a server that starts or reads on a busy machine


class Board:
    """A running TensorBoard.

    Args:
        url: Without a slash at the end.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def raw(self, path: str, body: Any = None, **query: Any) -> bytes:
        """The answer to a GET of /data/``path``, or with a body to a POST."""
        address = f"{self.url}/data/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(address, data, {"Content-Type": "application/json"} if data else {})
        with urllib.request.urlopen(asked, timeout=DEADLINE) as answer:
            return answer.read()

    def get(self, path: str, body: Any = None, **query: Any) -> Any:
        return json.loads(self.raw(path, body, **query))

    def points(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Steps and values of a curve."""
        found = self.get("plugin/scalars/scalars", run=run, tag=tag)
        return [(step, value) for _, step, value in found]


def wait_for(ask: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
    """The first sufficient answer, or the last one before the deadline."""
    end, answer = time.monotonic() + DEADLINE, None
    while time.monotonic() < end:
        try:
            answer = ask()
        except urllib.error.HTTPError as error:  # TensorBoard's way to say that it has not read this yet
            answer = error
        else:
            if enough(answer):
                return answer
        time.sleep(0.2)
    return answer


@contextmanager
def serve(folder: Path, loader: str, log: Path) -> Iterator[Board]:
    """TensorBoard on a free port, with one of its two ways of reading event files."""
    if loader == "fast" and importlib.util.find_spec("tensorboard_data_server") is None:
        pytest.skip("TensorBoard's fast loader is not installed")
    options = ["--load_fast", "true" if loader == "fast" else "false", "--reload_interval", "1"]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", *options]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = wait_for(
            lambda: re.search(r"http://localhost:\d+", log.read_text()),
            lambda found: found is not None or process.poll() is not None,
        )
        assert address is not None, log.read_text()
        yield Board(address.group())
    finally:
        process.terminate()
        process.wait(DEADLINE)


@pytest.fixture(scope="module", params=LOADERS)
def board(request, log_folder, tmp_path_factory) -> Iterator[Board]:
    """One server per loader, shared by the module, that has read the module's ``log_folder``."""
    with serve(log_folder, request.param, tmp_path_factory.mktemp("tensorboard") / "log") as board:
        expected = {str(path.parent.relative_to(log_folder)) for path in log_folder.rglob("events.out.tfevents.*")}
        found = wait_for(lambda: set(board.get("runs")), lambda runs: runs >= expected)
        assert found >= expected
        yield board


@pytest.fixture(scope="session", name="wait_for")
def _wait_for() -> Callable[[Callable[[], Any], Callable[[Any], bool]], Any]:
    return wait_for
