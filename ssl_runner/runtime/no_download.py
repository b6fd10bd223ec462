"""Checks a config without downloads: data that is not on this machine is replaced by blank images, or refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ssl_runner.errors import NotDownloaded

_absent: ContextVar[list[str] | None] = ContextVar("absent", default=None)


@contextmanager
def no_download() -> Iterator[list[str]]:
    """Inside, nothing is downloaded or decoded, so that mistakes are reported without waiting.

    A dataset whose sizes are known is replaced by blank images of these sizes (`source.blank`); any other raises
    `NotDownloaded`. Yields the names of both kinds.
    """
    absent: list[str] = []
    token = _absent.set(absent)
    try:
        yield absent
    finally:
        _absent.reset(token)


def refuse_download(name: str) -> None:
    """Call this before a download or another long task.

    Raises:
        NotDownloaded: Inside `no_download`.
    """
    absent = _absent.get()
    if absent is not None:
        absent.append(name)
        raise NotDownloaded(f"{name} is not available yet: it must be downloaded or decoded first")
