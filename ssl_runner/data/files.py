"""Image files of a folder, and what tells whether they have changed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ssl_runner.data.roots import DataError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


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


def scan(folder: Path) -> list[ImageFile]:
    """All image files below ``folder``, in the order of their paths; hidden and other files are left out.

    Links are followed, as clusters link class folders; one that leads back to a folder above is not.

    Raises:
        DataError: The folder is missing, cannot be read, or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is missing or no folder; set dataset.root to a folder of images.")
    try:
        files = sorted(_walk(str(folder), (), frozenset()))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}.") from None
    if not files:
        raise DataError(f"{folder} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    return files


def _walk(folder: str, parts: tuple[str, ...], above: frozenset[tuple[int, int]]) -> Iterator[ImageFile]:
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, (*parts, entry.name), above | {identity})
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                status = entry.stat()
                yield ImageFile((*parts, entry.name), status.st_size, status.st_mtime_ns)
