"""How far a long piece of work is: told by what does it, shown by whoever waits for it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PAUSE = 0.2  # seconds between two figures, so that showing them costs nothing


class _Shown:
    """Where the words go, and what they say so far."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self.show = show
        self.parts: list[str] = []
        self.last = -PAUSE

    def tell(self, *further: str) -> None:
        self.last = time.monotonic()
        self.show(", ".join([*self.parts, *further]))


_shown: ContextVar[_Shown | None] = ContextVar("progress", default=None)


@contextmanager
def shown_by(show: Callable[[str], object]) -> Iterator[None]:
    """Inside, ``show`` gets words such as ``few_shot, 5w1s, 320 of 1,000 tasks``."""
    token = _shown.set(_Shown(show))
    try:
        yield
    finally:
        _shown.reset(token)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Inside, a part of the work goes on that is called so; does nothing outside `shown_by`."""
    shown = _shown.get()
    if shown is None:
        yield
        return
    shown.parts.append(name)
    shown.tell()
    try:
        yield
    finally:
        shown.parts.pop()


def at(done: int, total: int, unit: str) -> None:
    """Say how much is done, in all and not since the last time; does nothing outside `shown_by`.

    Args:
        done: Number of units that are done.
        total: Number of them at the end.
        unit: Their name in the plural, ``tasks``.
    """
    shown = _shown.get()
    if shown is not None and time.monotonic() >= shown.last + PAUSE:
        shown.tell(f"{done:,} of {total:,} {unit}")
