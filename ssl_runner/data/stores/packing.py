"""Writes image files one after another into a few large ones, which are read faster and open at once."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from rich.progress import Progress

from ssl_runner.data.stores.index import Appending
from ssl_runner.data.stores.inspection import inspect
from ssl_runner.data.stores.threads import decoding_threads
from ssl_runner.errors import DataError, printable
from ssl_runner.images.decoding import Damage, Decoding
from ssl_runner.images.files import ImageFile
from ssl_runner.runtime.console import Console

LARGEST = 2**32  # bytes of a data file; one image may go beyond
AT_ONCE = 512  # files, or bytes below, that are in memory together
BYTES_AT_ONCE = 2**26
COMMIT = 2**28  # bytes after which the index is written; a killed process loses at most these


class Known(NamedTuple):
    """A damaged file, as the pack remembers it: it is read again if it has changed, or larger images are permitted."""

    size: int
    changed: int
    max_megapixels: float
    reason: str
    remedy: str


def text_of(file: ImageFile) -> bytes:
    """The text of a file in the index: its path, with slashes."""
    return os.fsencode("/".join(file.path))


def data_file(pack: Path, number: int) -> Path:
    return pack / f"{number:05d}.images"


def append(pack: Path, folder: Path, files: Sequence[ImageFile], decoding: Decoding) -> None:
    """Append files to a pack, which is made if it does not exist. The caller holds its lock.

    Whatever ends the process, the next call goes on from the last commit.

    Args:
        pack: Folder of the pack.
        folder: The folder that the files' paths are relative to.
        files: Files that the pack lacks.
        decoding: Every file is decoded once, to find out whether it is damaged.

    Raises:
        DataError: The disk is full.
    """
    pack.mkdir(parents=True, exist_ok=True)
    index = Appending(pack, {"root": os.fsdecode(folder), "data": [0], "damaged": {}})
    _refuse_small_disk(pack, files)
    bar = Progress(console=Console(stderr=True), transient=True, disable=len(files) <= AT_ONCE)
    with bar, _Writer(pack, index) as writer, ThreadPoolExecutor(decoding_threads()) as pool:
        task = bar.add_task(f"packing {len(files):,} images", total=len(files))

        def look(file: ImageFile) -> tuple[bytes, np.ndarray | Damage]:
            return _look(folder, file, decoding)

        for group in _groups(files):
            for file, (data, record) in zip(group, pool.map(look, group), strict=True):
                writer.take(file, data, record, decoding.max_megapixels)
            bar.advance(task, len(group))


def _look(folder: Path, file: ImageFile, decoding: Decoding) -> tuple[bytes, np.ndarray | Damage]:
    try:
        data = folder.joinpath(*file.path).read_bytes()
    except OSError as error:
        return b"", Damage(error.strerror or str(error))
    return data, inspect(data, decoding)


def _groups(files: Sequence[ImageFile]) -> Iterator[list[ImageFile]]:
    group, total = [], 0
    for file in files:
        if group and (len(group) == AT_ONCE or total + file.size > BYTES_AT_ONCE):
            yield group
            group, total = [], 0
        group.append(file)
        total += file.size
    if group:
        yield group


class _Writer:
    """Writes images into data files, and commits now and then and at the end."""

    def __init__(self, pack: Path, index: Appending) -> None:
        self.pack, self.index, self.since = pack, index, 0
        self.ends: list[int] = index.extra["data"]
        self.file: IO[bytes] | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._told(self.commit)
            self._close()
            return
        with contextlib.suppress(OSError):  # a full disk stays full; the error that ended the block is the one to tell
            if issubclass(kind, KeyboardInterrupt | DataError):
                self.commit()
        with contextlib.suppress(OSError):
            self._close()

    def take(self, file: ImageFile, data: bytes, record: np.ndarray | Damage, max_megapixels: float) -> None:
        """Write one image, or remember that it is damaged."""
        text = text_of(file)
        damaged = self.index.extra["damaged"]
        damaged.pop(os.fsdecode(text), None)
        if isinstance(record, Damage):
            damaged[os.fsdecode(text)] = Known(file.size, file.changed, max_megapixels, *record)
            return
        record["size"], record["changed"] = file.size, file.changed
        self._told(lambda: self._write(data, record, text))

    def _write(self, data: bytes, record: np.ndarray, text: bytes) -> None:
        if self.ends[-1] + len(data) > LARGEST and self.ends[-1]:
            self.commit()
            self.ends.append(0)
            self._close()
        if self.file is None:
            self.file = data_file(self.pack, len(self.ends) - 1).open("ab")
            self.file.truncate(self.ends[-1])  # what a killed process wrote, but did not commit
        self.file.write(data)
        record["file"], record["offset"] = len(self.ends) - 1, self.ends[-1]
        self.ends[-1] += len(data)
        self.index.add(record, text)
        self.since += len(data)
        if self.since >= COMMIT:
            self.commit()

    def commit(self) -> None:
        """Flush the images, then the index that knows them."""
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())
        self.index.commit()
        self.since = 0

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _told(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                f"the disk of {printable(str(self.pack))} is full ({error.strerror}); what was packed so far is kept, "
                "and the next start goes on from there. Free some space, or set SSL_RUNNER_CACHE to a folder with more."
            ) from None


def _refuse_small_disk(pack: Path, files: Sequence[ImageFile]) -> None:
    needed, free = sum(file.size for file in files), shutil.disk_usage(pack).free
    if needed > free:
        raise DataError(
            f"packing {len(files):,} images takes {needed / 2**30:,.1f} GiB, but the disk of "
            f"{printable(str(pack))} has "
            f"{free / 2**30:,.1f} GiB left; free some space, or set SSL_RUNNER_CACHE to a folder with more."
        )
