"""Checks a config without downloads: data that is not on this machine is replaced by blank images, or refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ssl_runner.errors import NotDownloaded

_absent: ContextVar[list[str] | None] = ContextVar("absent", default=None)
_may_decode: ContextVar[bool] = ContextVar("may_decode", default=False)


@contextmanager
def no_download(may_decode: bool = False) -> Iterator[list[str]]:
    """Inside, nothing is downloaded or decoded, so that mistakes are reported without waiting.

    A dataset whose sizes are known is replaced by blank images of these sizes (`source.blank`); any other raises
    `NotDownloaded`. Yields the names of both kinds.

    Args:
        may_decode: Whether files that are on this machine may be decoded, however long it takes.
    """
    absent: list[str] = []
    token, decoding = _absent.set(absent), _may_decode.set(may_decode)
    try:
        yield absent
    finally:
        _absent.reset(token)
        _may_decode.reset(decoding)


def refuse_decoding(name: str) -> None:
    """Call this before files that are on this machine are decoded.

    Raises:
        NotDownloaded: Inside `no_download`, unless it allows decoding.
    """
    if not _may_decode.get():
        refuse_download(name)


def refuse_download(name: str) -> None:
    """Call this before a download or another long task.

    Raises:
        NotDownloaded: Inside `no_download`.
    """
    absent = _absent.get()
    if absent is not None:
        absent.append(name)
        raise NotDownloaded(f"{name} is not available yet: it must be downloaded or decoded first")
