"""Decodes image files to uint8 arrays."""

import contextlib
import io
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
from PIL import Image, ImageOps

from ssl_runner.errors import DataError, printable
from ssl_runner.images.modes import Unreadable, eight_bits, is_deep

LISTED = 20  # damaged files that are named; any more are only counted
LARGE = 50  # megapixels from which files are decoded one at a time

_IN_MEMORY = re.compile(r"<_io\.BytesIO object at 0x[0-9a-f]+>")
_large = threading.Lock()
_pillow = threading.Lock()
_raised, _own_limit = 0, Image.MAX_IMAGE_PIXELS  # blocks in which Pillow's limit is off, and the limit outside them


@dataclass(frozen=True)
class Decoding:
    """How a file becomes pixels: rotated according to its EXIF data, then resized with Lanczos' filter, which uses
    every pixel.

    Attributes:
        size: Height and width: the shorter side is resized and the center cropped; None keeps the file's size.
        channels: 1 (ITU-R 601 luma) or 3.
        invert: Whether to invert values, so that ink on paper becomes light on 0.
        background: The background for transparent pixels: one number in [0, 255], or red, green and blue.
        value_range: Smallest and largest value, which become 0 and 255; None for those of the file's format.
        bits: Bits of 16-bit files. None for as many as the largest value needs (8, 10, 12, 14 or 16): that of the file
            if it is decoded alone, and that of all files in a dataset.
        max_megapixels: Larger images are refused, because a file of a few bytes may otherwise fill all memory.

    Raises:
        DataError: A value is out of its range.
    """

    size: int | None
    channels: Literal[1, 3]
    invert: bool = False
    background: int | Sequence[int] = 128
    value_range: Sequence[float] | None = None
    bits: int | None = None
    max_megapixels: float = 179

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise DataError(f"dataset.channels={self.channels!r}: expected 1 (gray) or 3 (RGB).")
        if self.size is not None and self.size < 1:
            raise DataError(f"dataset.size={self.size!r}: expected a number of pixels, or null for the files' own.")
        if len(self.color) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in self.color):
            raise DataError(
                f"dataset.background={self.background!r}: expected a number in [0, 255], or [red,green,blue] of them."
            )
        if self.value_range is not None and not (
            len(self.value_range) == 2 and self.value_range[0] < self.value_range[1]
        ):
            raise DataError(
                f"dataset.value_range={list(self.value_range)}: expected [BLACK,WHITE], or null for the format's own."
            )
        if not self.max_megapixels > 0:
            raise DataError(f"dataset.max_megapixels={self.max_megapixels}: expected a number above 0.")

    @property
    def color(self) -> tuple[int, ...]:
        """Red, green and blue of the background."""
        return (self.background,) * 3 if isinstance(self.background, int) else tuple(self.background)


class Damage(NamedTuple):
    """Why a file cannot be read, and what to do about it."""

    reason: str
    remedy: str = "replace or delete it"


class Decoded(NamedTuple):
    """The pixels of a file, uint8 (C, H, W), and what was noticed (`Findings`)."""

    pixels: np.ndarray
    deepest: int | None
    several_frames: bool


def decode(path: Path, decoding: Decoding) -> np.ndarray:
    """Pixels of one file, uint8 (C, H, W).

    Raises:
        DataError: The file is damaged; the message names it.
    """
    with pillow_limit_raised():
        found = decode_or_damage(path, decoding)
    if isinstance(found, Damage):
        raise DataError(f"{printable(str(path))} cannot be decoded ({found.reason}); {found.remedy}.")
    return found.pixels


def decode_files(paths: Sequence[Path], decoding: Decoding) -> list[np.ndarray]:
    """Pixels of each file, uint8 (C, H, W).

    Raises:
        DataError: Files are damaged; the message names all of them, or at most twenty.
    """
    with pillow_limit_raised():
        found = [decode_or_damage(path, decoding) for path in paths]
    refuse([(path, one) for path, one in zip(paths, found, strict=True) if isinstance(one, Damage)], len(paths), False)
    return [one.pixels for one in found if not isinstance(one, Damage)]


def refuse(damaged: Sequence[tuple[Path, Damage]], n: int, may_skip: bool) -> None:
    """Raises DataError if any of n files are damaged, naming at most twenty of them and all remedies.

    Args:
        may_skip: Whether the dataset has the key ``damaged``.
    """
    if not damaged:
        return
    remedies = list(dict.fromkeys(damage.remedy for _, damage in damaged))
    if len(damaged) == 1:
        path, damage = damaged[0]
        begin = f"{printable(str(path))} cannot be decoded ({damage.reason}); "
    else:
        lines = [f"  {printable(str(path))}: {damage.reason}" for path, damage in damaged[:LISTED]]
        more = [f"  and {len(damaged) - LISTED:,} more"] if len(damaged) > LISTED else []
        begin = "\n".join([f"{len(damaged):,} of {n:,} image files cannot be decoded:", *lines, *more, ""])
        remedies = [remedy.replace("replace or delete it", "replace or delete them") for remedy in remedies]
    remedies += ["leave out all such files with dataset.damaged=skip"] if may_skip else []
    raise DataError(f"{begin}{', or '.join(remedies)}.")


@overload
def decode_or_damage(file: Path | bytes, decoding: Decoding) -> Decoded | Damage: ...


@overload
def decode_or_damage(file: Path | bytes, decoding: Decoding, postpone: bool) -> Decoded | Damage | None: ...


def decode_or_damage(file: Path | bytes, decoding: Decoding, postpone: bool = False) -> Decoded | Damage | None:
    """The pixels of a file, which is given by its path or its content, or why it has none.

    None for an enormous image that is to be postponed.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            if damage := too_large(opened, decoding):
                return damage
            several = bool(getattr(opened, "is_animated", False))
            if opened.width * opened.height < LARGE * 1e6:
                return _pixels(opened, decoding, several)
            if postpone:
                return None
            with _large:
                return _pixels(opened, decoding, several)
    except Unreadable as error:
        return Damage(str(error), error.remedy)
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more, depending on the format
        return Damage(_why(file, error))


def too_large(opened: Image.Image, decoding: Decoding) -> Damage | None:
    """The damage of an image that has more pixels than are permitted. It is known before they are decoded."""
    megapixels = opened.width * opened.height / 1e6
    if megapixels <= decoding.max_megapixels:
        return None
    size = f"{opened.width:,} x {opened.height:,} pixels, more than {decoding.max_megapixels:g} million"
    return Damage(size, f"if you trust the file, set dataset.max_megapixels={int(megapixels) + 1}")


def readable(opened: Image.Image, decoding: Decoding) -> Image.Image:
    """The image, upright, in gray (L) or RGB, and inverted if asked for, but not resized."""
    ImageOps.exif_transpose(opened, in_place=True)
    return _in_mode(opened, decoding)


def _in_mode(upright: Image.Image, decoding: Decoding) -> Image.Image:
    image = eight_bits(upright, decoding.color, decoding.value_range, decoding.bits)
    mode = "L" if decoding.channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)  # convert would copy
    return ImageOps.invert(image) if decoding.invert else image


def _pixels(opened: Image.Image, decoding: Decoding, several: bool) -> Decoded:
    ImageOps.exif_transpose(opened, in_place=True)
    deepest = int(np.asarray(opened).max()) if is_deep(opened) and not opened.mode.startswith("F") else None
    image = _in_mode(opened, decoding)
    if decoding.size is not None:
        image = ImageOps.fit(image, (decoding.size, decoding.size), Image.Resampling.LANCZOS)
    pixels = np.ascontiguousarray(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1))
    return Decoded(pixels, deepest, several)


def _why(file: Path | bytes, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with contextlib.suppress(OSError):
        if (len(file) if isinstance(file, bytes) else file.stat().st_size) == 0:
            return "the file is empty"
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(file, bytes):
        return printable(_IN_MEMORY.sub("it", reason))
    return printable(reason.replace(repr(str(file)), "it").replace(str(file), "it"))


@contextmanager
def pillow_limit_raised() -> Iterator[None]:
    """Turns off Pillow's own limit of pixels inside the block; `Decoding.max_megapixels` applies instead.

    The limit belongs to the process. Blocks of several threads may overlap: the last one restores it.
    """
    global _raised, _own_limit
    with _pillow:
        if _raised == 0:
            _own_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _raised += 1
    try:
        yield
    finally:
        with _pillow:
            _raised -= 1
            if _raised == 0:
                Image.MAX_IMAGE_PIXELS = _own_limit


def pixels_of(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]}"
