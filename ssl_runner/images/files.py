"""Image files of a folder, and what tells whether they have changed."""

import errno
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ssl_runner.errors import DataError, printable

# Formats of which Pillow reads the head alone, or runs another program for the rest.
UNREADABLE = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
# Folders that file servers, macOS and Windows put beside one's own: thumbnails, resource forks, bins.
LITTER = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found")


class ImageFile(NamedTuple):
    """One file.

    Attributes:
        path: Relative to the folder that was scanned.
        size: Bytes.
        changed: Time of the last change, nanoseconds.
    """

    path: tuple[str, ...]
    size: int
    changed: int


@dataclass
class Scan:
    """What lies below a folder.

    Attributes:
        files: Of images, in the order of their paths.
        others: Number of files that are no images, by their ending (``.txt``; an empty one where there is none).
        broken: Links that lead nowhere, with the reason.
    """

    files: list[ImageFile] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    broken: list[tuple[tuple[str, ...], str]] = field(default_factory=list)


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Endings, with their dots and in small letters, of what Pillow reads."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    return tuple(sorted(suffix for suffix, kind in known if kind in Image.OPEN and kind not in UNREADABLE))


def scan(folder: Path) -> Scan:
    """All that lies below ``folder``; hidden files and folders, and `LITTER`, are passed over.

    Links are followed, as clusters link class folders; one that leads back to a folder above is not.

    Raises:
        DataError: The folder is missing, cannot be read, or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(str(folder))} is missing or no folder; set dataset.root to a folder of images.")
    found = Scan()
    try:
        found.files = sorted(_walk(str(folder), (), frozenset(), found))
    except OSError as error:
        raise DataError(f"{printable(str(folder))} cannot be read: {error}.") from None
    if not found.files:
        others = f" among {sum(found.others.values()):,} files" if found.others else ""
        broken = f" {len(found.broken)} links lead nowhere." if found.broken else ""
        raise DataError(
            f"{printable(str(folder))} holds no images{others}; expected files ending in "
            f"{', '.join(image_suffixes())}.{broken}"
        )
    return found


def _walk(folder: str, parts: tuple[str, ...], above: frozenset[tuple[int, int]], found: Scan) -> Iterator[ImageFile]:
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in LITTER:
                continue
            path = (*parts, entry.name)
            try:
                status = entry.stat()
            except OSError as error:
                if not entry.is_symlink():
                    raise
                found.broken.append((path, _broken(entry.path, error)))
                continue
            if entry.is_dir():
                yield from _walk(entry.path, path, above | {identity}, found)
            elif entry.name.lower().endswith(image_suffixes()):
                yield ImageFile(path, status.st_size, status.st_mtime_ns)
            else:
                suffix = printable(os.path.splitext(entry.name)[1].lower())
                found.others[suffix] = found.others.get(suffix, 0) + 1


def _broken(path: str, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    return f"a link to {printable(os.readlink(path))}, which is not there"
