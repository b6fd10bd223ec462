"""One process at a time, on one machine or a shared folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def locked(path: Path, wait: bool = True, keep: bool = True) -> Iterator[None]:
    """Holds the lock file ``path`` (made with its folder if missing); waits while another process holds it.

    The kernel lets go when the holder dies, so a killed process leaves nothing to wait for.

    Args:
        wait: For another process that holds it.
        keep: Whether the file stays; else it goes, with those of the folders made for it that are empty by then.

    Raises:
        BlockingIOError: Another process holds it, and we do not ``wait``.
        OSError: The file cannot be made or locked.
    """
    file, made = _take(path, wait)
    with file:
        try:
            yield
        finally:
            if not keep:
                _clear(path, made)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file; makes none, and holds it only as one who reads, for no time at all."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held; or this disk knows no locks, and nobody can tell
        return True
    return False


def _take(path: Path, wait: bool) -> tuple[IO[str], list[Path]]:
    """The open, locked file, and the folders that were made for it."""
    made: list[Path] = []
    while True:
        made += [folder for folder in path.parents if folder not in made and not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a")
        except FileNotFoundError:  # another process has just cleared it away, with its folder
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file.fileno()):
                return file, made
        except BaseException:
            file.close()
            raise
        file.close()  # removed while we waited for it: what lies at the path now is another lock


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _clear(path: Path, folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # a folder that something was put into stays, and so do those above it
        path.unlink()
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            folder.rmdir()
