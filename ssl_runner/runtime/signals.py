"""Handles Ctrl-C, SIGTERM and SIGHUP as requests to stop, not as crashes."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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

    before = {}
    try:
        for number in _ends():
            before[number] = signal.signal(number, interrupt)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Inside, a signal is recorded, so that the loop ends after the present step; a second Ctrl-C ends it at once."""
    stop, before = Stop(), {}

    def request(number: int, frame: object) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    try:
        for number in (signal.SIGINT, *_ends()):
            before[number] = signal.signal(number, request)
    except ValueError:  # not the main thread, which alone handles signals
        pass
    lost = False
    try:
        yield stop
    except ProcessLost:
        lost = launch_environment.rank() == 0
        raise
    finally:
        for number, handler in before.items():
            # torchrun terminates the remaining processes; process 0 first reports why, and exits by itself
            reporting = lost and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if reporting else handler)
