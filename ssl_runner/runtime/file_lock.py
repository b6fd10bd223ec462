"""A lock file that one process at a time can hold, on one machine or in a shared folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def locked(path: Path, wait: bool = True, keep: bool = True) -> Iterator[None]:
    """Holds the lock file ``path``, which is created with its folder if missing.

    The kernel releases the lock when its holder dies, so a killed process blocks nobody.

    Args:
        path: The lock file.
        wait: Whether to wait while another process holds the lock.
        keep: Whether to keep the file. If not, it is deleted, with the folders created for it that are empty.

    Raises:
        BlockingIOError: Another process holds the lock, and ``wait`` is false.
        OSError: The file cannot be created or locked.
    """
    file, created = _take(path, wait)
    with file:
        try:
            yield
        finally:
            if not keep:
                _clear(path, created)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file. This creates no file, and takes only a shared lock for an instant."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held, or this file system has no locks, so it is unknown
        return True
    return False


def _take(path: Path, wait: bool) -> tuple[IO[str], list[Path]]:
    """The open, locked file, and the folders that were created for it."""
    created: list[Path] = []
    while True:
        created += [folder for folder in path.parents if folder not in created and not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a")
        except FileNotFoundError:  # another process has just deleted it, with its folder
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file.fileno()):
                return file, created
        except BaseException:
            file.close()
            raise
        file.close()  # deleted while we waited: the path now holds a different lock file


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _clear(path: Path, folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # folders that are not empty are kept, and so are those above them
        path.unlink()
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            folder.rmdir()
