"""One process at a time, on one machine or a shared folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file ``path`` (made with its folder if missing); waits while another process holds it.

    The kernel lets go when the holder dies, so a killed process leaves nothing to wait for. The file itself stays:
    deleting it would let a third process lock a new file while a second one still waits for the old.

    Raises:
        OSError: The file cannot be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
