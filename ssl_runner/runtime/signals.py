"""Handles Ctrl-C, SIGTERM and SIGHUP as requests to stop, not as crashes."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ssl_runner.errors import ProcessLost
from ssl_runner.runtime import launch_environment


@dataclass
class Stop:
    """Whether the run was asked to end."""

    requested: bool = False


def _ends() -> list[int]:
    """The signals besides Ctrl-C that ask the run to end; SIGHUP only if it is not ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM acts like Ctrl-C, and so does SIGHUP, which a terminal sends when it closes."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with _handled(_ends(), interrupt):
        yield


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Inside, a signal is recorded, so that the loop ends after the present step; a second Ctrl-C ends it at once."""
    stop = Stop()

    def request(number: int, frame: object) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    with _handled([signal.SIGINT, *_ends()], request):
        yield stop


@contextmanager
def _handled(numbers: list[int], handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = {}
    try:
        for number in numbers:
            before[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread, which alone handles signals
        pass
    lost = False
    try:
        yield
    except ProcessLost:
        lost = launch_environment.size() > 1 and launch_environment.rank() == 0
        raise
    finally:
        for number, earlier in before.items():
            # torchrun terminates the remaining processes; process 0 first reports why, and exits by itself
            reporting = lost and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if reporting else earlier)
