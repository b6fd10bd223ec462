"""Image files to uint8 arrays."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from rich.progress import Progress

from ssl_runner.console import Console
from ssl_runner.data.roots import DataError

CHUNK = 1024  # images in flight; all of a chunk lie in memory


@dataclass(frozen=True)
class Decoding:
    """How a file becomes pixels: upright by its EXIF, then resized by Lanczos' filter, which looks at every pixel.

    Attributes:
        size: Height and width: the shorter side is resized and the middle cut out; None keeps the file's.
        channels: 1 (ITU-R 601 luma) or 3.
        invert: Ink on paper becomes light on 0.
    """

    size: int | None
    channels: Literal[1, 3]
    invert: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise DataError(f"dataset.channels={self.channels!r}: expected 1 (grey) or 3 (RGB).")
        if self.size is not None and self.size < 1:
            raise DataError(f"dataset.size={self.size!r}: expected a number of pixels, or null for the files' own.")


def decode(path: Path, decoding: Decoding) -> np.ndarray:
    """Pixels (C, H, W), uint8, of one file.

    Raises:
        DataError: The file is damaged; names it.
    """
    try:
        with Image.open(path) as opened:
            image = _eight_bits(ImageOps.exif_transpose(opened)).convert("L" if decoding.channels == 1 else "RGB")
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more, by the format
        raise DataError(f"{path} cannot be decoded ({error}); replace or delete it.") from None
    if decoding.invert:
        image = ImageOps.invert(image)
    if decoding.size is not None:
        image = ImageOps.fit(image, (decoding.size, decoding.size), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1))


def decode_all(files: Sequence[Path], decoding: Decoding) -> Iterator[np.ndarray]:
    """Pixels (n, C, H, W) of the files in their order, a chunk at a time, decoded in threads; shows its progress.

    Raises:
        DataError: A file is damaged, or sizes differ and ``decoding.size`` is None.
    """
    shape = None
    starts = range(0, len(files), CHUNK)
    bar = Progress(console=Console(stderr=True), transient=True, disable=len(starts) == 1)
    # Pillow lets go of the interpreter's lock while it decodes and resizes
    with bar, ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        for start in bar.track(starts, description=f"decoding {len(files)} images"):
            chunk = files[start : start + CHUNK]
            images = list(pool.map(lambda path: decode(path, decoding), chunk))
            shape = shape or images[0].shape
            for path, image in zip(chunk, images, strict=True):
                if image.shape != shape:
                    raise DataError(
                        f"{path} is {_size(image.shape)} pixels, and {files[0]} {_size(shape)}; set dataset.size."
                    )
            yield np.stack(images)


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion of 16-bit grey clips at 255 instead of scaling: nearly white pictures
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]}"
