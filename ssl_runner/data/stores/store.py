"""Encoded images that are read in any order, by number."""

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol

from ssl_runner.data.stores.index import Index
from ssl_runner.errors import DataError, printable

OPEN_FILES = 128  # kept open at once; systems allow about a thousand


class Reader(Protocol):
    """Reads parts of a store's files."""

    def __call__(self, file: int, offset: int, length: int) -> bytes: ...


class LocalFiles:
    """Reads parts of files on this machine, from any number of threads.

    Parts are read and not memory-mapped: pages of a mapped file count as this process's memory, and a file that is cut
    short while it is used raises an error here, but ends the process there.

    Args:
        paths: Path of each file.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, file: int, offset: int, length: int) -> bytes:
        opened = self._opened(file)
        return os.pread(opened.fileno(), length, offset)

    def _opened(self, file: int) -> IO[bytes]:
        with self._lock:
            if file not in self._open:
                self._open[file] = self.paths[file].open("rb", buffering=0)
                if len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)  # it is closed when the last thread that reads from it is done
            self._open.move_to_end(file)
            return self._open[file]


class ImageStore:
    """The images of an index.

    Args:
        index: Where they are.
        read: Reads parts of the files.
        name: Names an image in messages, by its number.
        remedy: What to do if a file does not have the content that the index knows.
    """

    def __init__(self, index: Index, read: Reader, name: Callable[[int], str], remedy: str) -> None:
        self.index, self.read, self.name, self.remedy = index, read, name, remedy

    def __len__(self) -> int:
        return len(self.index)

    def encoded(self, row: int) -> bytes:
        """The encoded image number ``row``.

        Raises:
            DataError: It cannot be read, or is not what was indexed.
        """
        record = self.index.records[row]
        try:
            data = self.read(int(record["file"]), int(record["offset"]), int(record["length"]))
        except OSError as error:
            reason = printable(" ".join(str(error).split()))
            raise DataError(f"{self.name(row)} cannot be read ({reason}); {self.remedy}.") from None
        if len(data) != record["length"]:
            raise DataError(f"{self.name(row)} is cut short: its file has become smaller; {self.remedy}.")
        if zlib.crc32(data) != record["crc"]:
            raise DataError(f"{self.name(row)} is damaged: its checksum is wrong; {self.remedy}.")
        return data
