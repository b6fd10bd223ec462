"""The index of a store, memory-mapped: where each image lies, its size and its checksum."""

import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_runner.errors import DataError, printable
from ssl_runner.runtime.atomic_write import write_atomically

FORMAT = 1

RECORD = np.dtype(
    [
        ("offset", "<u8"),  # of the encoded image in its file
        ("length", "<u4"),
        ("file", "<u4"),
        ("crc", "<u4"),  # CRC-32 of the encoded image
        ("height", "<u4"),  # of the upright image, in pixels
        ("width", "<u4"),
        ("deepest", "<i4"),  # largest value of a 16-bit image, -1 for others
        ("greatest", "u1"),  # largest value of any pixel
        ("frames", "u1"),  # 1 if it has several frames
        ("mean", "<f4", 3),  # mean and mean square of each channel, in [0, 1]
        ("square", "<f4", 3),
        ("size", "<u8"),  # size in bytes and time of the last change of the file that it was read from
        ("changed", "<i8"),
        ("text_end", "<u8"),  # end of its text among those of all images
        ("digest", "u1", 16),  # hash of the encoded image
    ]
)


@dataclass
class Index:
    """Records and texts of all images, in the order in which they were added.

    Attributes:
        records: `RECORD` (N,), memory-mapped.
        extra: Plain data of the store's owner.
        folder: The folder of the index.
    """

    folder: Path
    records: np.ndarray
    extra: dict[str, Any]
    _texts: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def text(self, row: int) -> bytes:
        """The text of an image: its name, and what else the owner knows of it."""
        start = int(self.records["text_end"][row - 1]) if row else 0
        return self._texts[start : int(self.records["text_end"][row])].tobytes()

    def texts(self) -> list[bytes]:
        """All texts."""
        whole, ends = self._texts.tobytes(), self.records["text_end"].tolist()
        return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def read_index(folder: Path) -> Index | None:
    """The index in a folder, or None if there is none that this version can read.

    Raises:
        DataError: It is damaged.
    """
    state = _state(folder)
    if state is None:
        return None
    records, texts = (_mapped(folder / name, state[name]["bytes"]) for name in ("records", "texts"))
    for name, content in (("records", records), ("texts", texts)):
        if content is None or zlib.crc32(content.data) != state[name]["crc"]:
            raise DataError(
                f"{printable(str(folder / name))} is damaged: it does not have the content that was written; "
                f"delete {printable(str(folder))}, and it is made again."
            )
    assert records is not None and texts is not None
    # as plain arrays, still of mapped memory: numpy's memmap is slow to index
    return Index(folder, np.asarray(records).view(RECORD), state["extra"], np.asarray(texts))


class Appending:
    """Adds images to an index. What is not committed when the process ends is overwritten by the next one.

    Args:
        folder: An existing folder. The caller holds its lock.
        extra: The owner's data of a new index.

    Attributes:
        extra: The owner's data, which is written by the next `commit`.
    """

    def __init__(self, folder: Path, extra: dict[str, Any]) -> None:
        empty = {"bytes": 0, "crc": 0}
        self.folder = folder
        self._state = _state(folder) or {"format": FORMAT, "records": empty, "texts": empty, "extra": extra}
        self.extra = self._state["extra"]
        self._end = self._state["texts"]["bytes"]
        self._records: list[np.ndarray] = []
        self._texts: list[bytes] = []

    def add(self, record: np.ndarray, text: bytes) -> None:
        """Add an image. ``text_end`` of its record is filled in here."""
        self._end += len(text)
        record["text_end"] = self._end
        self._records.append(record)
        self._texts.append(text)

    def commit(self) -> None:
        """Write what was added. The caller has flushed the images' own content to the disk."""
        for name, content in (
            ("records", b"".join(record.tobytes() for record in self._records)),
            ("texts", b"".join(self._texts)),
        ):
            known = self._state[name]
            with (self.folder / name).open("ab") as file:
                file.truncate(known["bytes"])  # what a killed process wrote, but did not commit
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._state[name] = {"bytes": known["bytes"] + len(content), "crc": zlib.crc32(content, known["crc"])}
        self._state["extra"] = self.extra
        text = json.dumps(self._state)
        write_atomically(self.folder / "state.json", lambda path: path.write_text(text, encoding="utf-8"))
        self._records, self._texts = [], []


def _state(folder: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise DataError(
            f"{printable(str(folder / 'state.json'))} is damaged; delete that folder, and it is made again."
        ) from None
    return state if state.get("format") == FORMAT else None


def _mapped(path: Path, size: int) -> np.ndarray | None:
    """The first bytes of a file, or None if it has fewer."""
    if size == 0:  # nothing can be mapped
        return np.empty(0, np.uint8)
    try:
        return np.memmap(path, np.uint8, "r", shape=(size,))
    except (FileNotFoundError, ValueError):
        return None
