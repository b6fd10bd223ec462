"""Processes that decode image files: reading small files is mostly Python, of which threads run one line at a time."""

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ssl_runner.images.decoding import Damage, Decoded, Decoding, decode_or_damage, pillow_limit_raised

# the processes start in half a second; 2,048 small files take a second and more
FEWEST = 2048

Found = list[Decoded | Damage]


class Workers:
    """Decodes files in as many processes as there are cores; may be used from several threads.

    Args:
        decoding: How files become pixels.
        count: Number of processes.
    """

    def __init__(self, decoding: Decoding, count: int) -> None:
        self.decoding, self.count = decoding, count
        self.idle: queue.Queue[subprocess.Popen[bytes]] = queue.Queue()
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        program = [sys.executable, "-c", "from ssl_runner.images.workers import serve; serve()"]
        for _ in range(self.count):
            process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            self.all.append(process)
            self.idle.put(process)

    def close(self) -> None:
        for process in self.all:
            process.kill()
            process.communicate()

    def decode(self, files: Sequence[Path]) -> Found:
        """What `decode_or_damage` finds in each file."""
        process = self.idle.get()
        try:
            found = _asked(process, files, self.decoding)
        finally:
            self.idle.put(process)
        # an enormous image, or a process that was killed: here, one at a time
        return [
            decode_or_damage(file, self.decoding) if one is None else one
            for file, one in zip(files, found, strict=True)
        ]


@contextmanager
def workers(decoding: Decoding, files: int) -> Iterator[Workers | None]:
    """Inside, processes that decode so many files; None if they are too few to be worth it."""
    count = min(32, os.cpu_count() or 1)
    if files < FEWEST or count < 2:
        yield None
        return
    made = Workers(decoding, count)
    try:
        made.start()
        yield made
    finally:
        made.close()


def serve() -> None:
    """The work of a process: answers requests on stdin until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    with pillow_limit_raised():
        while True:
            try:
                files, decoding = pickle.load(requests)
            except EOFError:
                return
            pickle.dump([decode_or_damage(file, decoding, postpone=True) for file in files], answers)
            answers.flush()


def _asked(
    process: subprocess.Popen[bytes], files: Sequence[Path], decoding: Decoding
) -> list[Decoded | Damage | None]:
    assert process.stdin is not None and process.stdout is not None
    try:
        pickle.dump((list(files), decoding), process.stdin)
        process.stdin.flush()
        return pickle.load(process.stdout)
    except (OSError, EOFError, pickle.UnpicklingError):
        return [None] * len(files)
