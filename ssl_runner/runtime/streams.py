"""Keeps the program running if stdout or stderr fails.

A pipe that nobody reads, a closed terminal or a full disk behind the output must not end a run.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = "train.log"  # the name that Hydra chooses, after the module


class Guarded:
    """A stream that drops text it cannot write, and reports that once in the run's log.

    Characters that its encoding lacks are escaped.

    Args:
        stream: stdout or stderr.
        name: Its name, "stdout" or "stderr".
    """

    def __init__(self, stream: Any, name: str) -> None:
        self.stream, self.name = stream, name

    def write(self, text: str) -> int:
        """Write if possible. Returns the number of characters."""
        with self._whatever_happens():
            try:
                self.stream.write(text)
            except UnicodeEncodeError as error:  # nothing was written
                self.stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        with self._whatever_happens():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _lose(self.stream, self.name, error.strerror or str(error))
        except ValueError as error:
            if not self.stream.closed:
                raise
            _lose(self.stream, self.name, str(error))


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, writing to stdout and stderr never fails, and characters that their encoding lacks are escaped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_opened(number, name) for number, name in ((1, "stdout"), (2, "stderr")))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # a failure here is handled, while one at interpreter exit is not
        sys.stdout, sys.stderr = before


@contextmanager
def logged_in(folder: Path) -> Iterator[None]:
    """Inside, `log` and reports of failed streams write to this run's log."""
    global _log
    before, _log = _log, folder / FILE
    try:
        for name, why in _lost.items():
            log(_sentence(name, why))
        yield
    finally:
        _log = before


def log(text: str) -> None:
    """Write one line into the log of the current run, if there is one and its folder is writable."""
    if _log is None:
        return
    now = time.time()
    stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now * 1000) % 1000:03d}"
    with contextlib.suppress(OSError), _log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"[{stamp}][{__name__}][WARNING] - {text}\n")


# this process's failed streams, each with the reason, and the log file to report them in
_lost: dict[str, str] = {}
_log: Path | None = None


def guard(stream: Any, name: str) -> Any:
    """The stream, `Guarded`."""
    return stream if isinstance(stream, Guarded) else Guarded(stream, name)


def _opened(number: int, name: str) -> Any:
    stream = getattr(sys, name)
    if stream is None:  # Python does this if the descriptor was closed at the start
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 as long as the process
        _lost[name] = "it is closed"
        try:
            os.fstat(number)  # another file already has the number
        except OSError:
            os.dup2(stream.fileno(), number)  # otherwise another file could get it, with everything libraries print
    return guard(stream, name)


def _lose(stream: Any, name: str, why: str) -> None:
    """Redirect the stream to nowhere, including its buffer, which would fail again at each flush."""
    with contextlib.suppress(OSError, ValueError):
        if stream.fileno() in (1, 2):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    if name not in _lost:
        _lost[name] = why
        log(_sentence(name, why))


def _sentence(name: str, why: str) -> str:
    return f"{name} cannot be written to ({why}): the run continues without it"
