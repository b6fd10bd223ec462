"""Ctrl-C and SIGTERM as a wish to stop, not a crash."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Stop:
    """Whether someone asked the run to end."""

    requested: bool = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Inside, a signal is noted, for the loop to end after the step at hand; a second Ctrl-C ends it at once."""
    stop, before = Stop(), {}

    def request(number: int, frame: object) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, request)
    except ValueError:  # not the main thread: signals are somebody else's
        pass
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
