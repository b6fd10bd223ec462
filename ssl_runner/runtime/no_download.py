"""A look at a config without a download: what is not on this machine is stood in for, or refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ssl_runner.errors import NotDownloaded

_absent: ContextVar[list[str] | None] = ContextVar("absent", default=None)


@contextmanager
def no_download() -> Iterator[list[str]]:
    """Inside, nothing is downloaded or decoded, so a mistake is told without waiting.

    A dataset whose sizes are public is stood in for by blank images of these sizes (`source.blank`); another one raises
    `NotDownloaded`. Yields the names of both kinds.
    """
    absent: list[str] = []
    token = _absent.set(absent)
    try:
        yield absent
    finally:
        _absent.reset(token)


def refuse_download(name: str) -> None:
    """Called before what takes long.

    Raises:
        NotDownloaded: Within `no_download`.
    """
    absent = _absent.get()
    if absent is not None:
        absent.append(name)
        raise NotDownloaded(f"{name} is not at hand: it is to be downloaded or decoded first")
