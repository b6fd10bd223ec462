"""stdout and stderr, without which the program goes on.

A pipe that nobody reads, a terminal that is gone and a full disk behind the output are no reason to lose a run.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = "train.log"  # as Hydra names it, after the module


class Guarded:
    """A stream that drops what it cannot write, and says so once in the run's log.

    Characters that its encoding lacks are shown escaped.

    Args:
        stream: stdout or stderr.
        name: Which.
    """

    def __init__(self, stream: Any, name: str) -> None:
        self.stream, self.name = stream, name

    def write(self, text: str) -> int:
        """Write, if that can be done. Gives the number of characters."""
        with self._whatever_happens():
            try:
                self.stream.write(text)
            except UnicodeEncodeError as error:  # nothing of it is written
                self.stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        return len(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
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
    """Inside, nothing that is written to stdout or stderr fails, and what their encoding lacks is shown escaped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_opened(number, name) for number, name in ((1, "stdout"), (2, "stderr")))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # what fails now need not fail when the interpreter ends
        sys.stdout, sys.stderr = before


@contextmanager
def logged_in(folder: Path) -> Iterator[None]:
    """Inside, `log` and the loss of a stream write to the log of this run, for whom there is no other place to look."""
    global _log
    before, _log = _log, folder / FILE
    try:
        for name, why in _lost.items():
            log(_sentence(name, why))
        yield
    finally:
        _log = before


def log(text: str) -> None:
    """One line in the log of the run at hand, if there is one and its folder can be written to."""
    if _log is None:
        return
    now = time.time()
    stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now * 1000) % 1000:03d}"
    with contextlib.suppress(OSError), _log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"[{stamp}][{__name__}][WARNING] - {text}\n")


# of this process: streams that are lost, each with the reason, and where to write that down
_lost: dict[str, str] = {}
_log: Path | None = None


def guard(stream: Any, name: str) -> Any:
    """The stream, `Guarded`."""
    return stream if isinstance(stream, Guarded) else Guarded(stream, name)


def _opened(number: int, name: str) -> Any:
    stream = getattr(sys, name)
    if stream is None:  # Python's word for a descriptor that was closed when it began
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 as long as the process
        _lost[name] = "it is closed"
        try:
            os.fstat(number)  # another file has the number already
        except OSError:
            os.dup2(stream.fileno(), number)  # lest another file gets it, and with it what libraries print
    return guard(stream, name)


def _lose(stream: Any, name: str, why: str) -> None:
    """Let the stream lead nowhere from here on, with what it still holds: its buffer fails again at each flush."""
    with contextlib.suppress(OSError, ValueError):
        if stream.fileno() in (1, 2):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    if name not in _lost:
        _lost[name] = why
        log(_sentence(name, why))


def _sentence(name: str, why: str) -> str:
    return f"{name} cannot be written to ({why}): the run goes on without it"
