"""The image files of a folder, and what shows whether they have changed."""

import errno
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ssl_runner.errors import DataError, printable

# Formats of which Pillow only reads the header, or for which it runs another program.
UNREADABLE = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
# Folders that file servers, macOS and Windows add: thumbnails, resource forks, recycle bins.
LITTER = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found")


class ImageFile(NamedTuple):
    """One file.

    Attributes:
        path: Path relative to the scanned folder.
        size: Size in bytes.
        changed: Time of the last change, in nanoseconds.
    """

    path: tuple[str, ...]
    size: int
    changed: int


@dataclass
class Scan:
    """The files below a folder.

    Attributes:
        files: Image files, in the order of their paths.
        others: Number of files that are not images, by their suffix (``.txt``; empty if there is none).
        broken: Broken links, with the reason.
    """

    files: list[ImageFile] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    broken: list[tuple[tuple[str, ...], str]] = field(default_factory=list)


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Suffixes, with their dots and in lower case, of the files that Pillow reads."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    return tuple(sorted(suffix for suffix, kind in known if kind in Image.OPEN and kind not in UNREADABLE))


def scan(folder: Path) -> Scan:
    """All files below ``folder``. Hidden files and folders, and `LITTER`, are skipped.

    Links are followed, because clusters link class folders, except those that lead back to a parent folder.

    Raises:
        DataError: The folder is missing, cannot be read, or contains no image.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(str(folder))} is missing or not a folder; set dataset.root to a folder of images.")
    found = Scan()
    try:
        found.files = sorted(_walk(str(folder), (), frozenset(), found))
    except OSError as error:
        raise DataError(f"{printable(str(folder))} cannot be read: {error}.") from None
    if not found.files:
        others = f" among {sum(found.others.values()):,} files" if found.others else ""
        broken = f" {len(found.broken)} links are broken." if found.broken else ""
        raise DataError(
            f"{printable(str(folder))} contains no images{others}; expected files ending in "
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
    return f"a link to {printable(os.readlink(path))}, which does not exist"
