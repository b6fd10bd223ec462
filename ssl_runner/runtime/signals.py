"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop, not a crash."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ssl_runner.errors import ProcessLost
from ssl_runner.runtime import launch_environment


@dataclass
class Stop:
    """Whether someone asked the run to end."""

    requested: bool = False


def _ends() -> list[int]:
    """Signals that ask for an end, beside Ctrl-C: a hang-up, too, unless it is ignored, as nohup has it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM is a Ctrl-C, and so is SIGHUP, which a terminal sends when it goes away."""

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
    """Inside, a signal is noted, for the loop to end after the step at hand; a second Ctrl-C ends it at once."""
    stop, before = Stop(), {}

    def request(number: int, frame: object) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    try:
        for number in (signal.SIGINT, *_ends()):
            before[number] = signal.signal(number, request)
    except ValueError:  # not the main thread: signals are somebody else's
        pass
    lost = False
    try:
        yield stop
    except ProcessLost:
        lost = launch_environment.rank() == 0
        raise
    finally:
        for number, handler in before.items():
            # torchrun ends what is left of a run; process 0 first tells why, and ends by itself
            telling = lost and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if telling else handler)
