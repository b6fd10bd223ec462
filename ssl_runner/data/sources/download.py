"""Downloads missing datasets, and reports where they were looked for."""

import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_runner.errors import DataError
from ssl_runner.runtime.file_lock import locked
from ssl_runner.runtime.no_download import refuse_download

REMEDY = "Set SSL_RUNNER_DATA (or dataset.root=FOLDER) to the folder that contains it, or run once with a network."


def download(name: str, root: Path, wanted: Sequence[Path], fetch: Callable[[str], object]) -> None:
    """Downloads what is missing under ``root``, completely or not at all. Processes that start at once take turns.

    A failure leaves nothing behind, not even the root if it was created for this.

    Args:
        name: Name of the dataset, for the message.
        wanted: Files or folders below ``root``. Those that exist by the time it is this process's turn are left alone.
        fetch: torchvision's own code, with its checksums, which is given another root to write to.

    Raises:
        DataError: It cannot be fetched; the message says what is missing, where it was looked for and what to do.
    """
    refuse_download(name)
    unfinished = root / ".ssl_runner.unfinished"
    try:
        with locked(root / ".ssl_runner.lock", keep=False), _patience(seconds=20):
            if all(path.exists() for path in wanted):
                return
            shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
            try:
                fetch(str(unfinished))
                for path in wanted:
                    brought = unfinished / path.relative_to(root)
                    if brought.exists() and not path.exists():
                        path.parent.mkdir(parents=True, exist_ok=True)
                        brought.rename(path)
            finally:  # while this process has the lock: afterwards another one may use the folder
                shutil.rmtree(unfinished, ignore_errors=True)
    except Exception as error:  # URLError, a wrong checksum's RuntimeError, a read-only root: the dataset is missing
        places = " and ".join(str(path) for path in wanted)
        reason = " ".join(str(error).split()) or type(error).__name__  # torchvision lists its mirrors on separate lines
        raise DataError(f"{name} is missing: looked for {places}; downloading it failed ({reason}). {REMEDY}") from None


def by_torchvision(kind: str, *parts: Mapping[str, Any]) -> Callable[[str], None]:
    """A function that `download` can call to fetch one of torchvision's datasets.

    Args:
        kind: Name of torchvision's class.
        parts: Arguments of each part that has its own files; none if the dataset is a single one.
    """

    def fetch(root: str) -> None:
        Path(root).mkdir(exist_ok=True)  # USPS and SVHN expect it
        for part in parts or ({},):
            torchvision_class(kind)(root, download=True, **part)

    return fetch


def torchvision_class(kind: str) -> Any:
    """A class of torchvision's datasets by its name."""
    from torchvision import datasets  # takes seconds to import

    return getattr(datasets, kind)


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    # urlopen in torchvision sets no timeout: behind a firewall that drops packets it would wait for minutes
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
