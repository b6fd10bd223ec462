"""Image files to uint8 arrays."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps
from rich.progress import Progress

from ssl_runner.console import Console
from ssl_runner.data.files import printable
from ssl_runner.data.modes import Unreadable, bits_for, eight_bits, is_deep
from ssl_runner.data.roots import DataError

Made = TypeVar("Made")

CHUNK = 1024  # images in flight; all of a chunk lie in memory
LISTED = 20  # damaged files that are named, before they are only counted
LARGE = 50  # megapixels from which on one file at a time is decoded

_large = threading.Lock()
_pillow = threading.RLock()


@dataclass(frozen=True)
class Decoding:
    """How a file becomes pixels: upright by its EXIF, then resized by Lanczos' filter, which looks at every pixel.

    Attributes:
        size: Height and width: the shorter side is resized and the middle cut out; None keeps the file's.
        channels: 1 (ITU-R 601 luma) or 3.
        invert: Ink on paper becomes light on 0.
        background: What transparent pixels are laid on: one number in [0, 255], or red, green and blue.
        value_range: Least and greatest value, which become 0 and 255; None for what the file's format has.
        bits: Of 16-bit files; None for as many as the greatest value needs (8, 10, 12, 14 or 16), of one file where
            it is decoded alone, of all together in a dataset.
        max_megapixels: Larger images are refused: a file of a few bytes may ask for all memory.

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
            raise DataError(f"dataset.channels={self.channels!r}: expected 1 (grey) or 3 (RGB).")
        if self.size is not None and self.size < 1:
            raise DataError(f"dataset.size={self.size!r}: expected a number of pixels, or null for the files' own.")
        if len(self.colour) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in self.colour):
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
    def colour(self) -> tuple[int, ...]:
        """Red, green and blue of the background."""
        return (self.background,) * 3 if isinstance(self.background, int) else tuple(self.background)


class Damage(NamedTuple):
    """Why a file cannot be read, and what to do about it."""

    reason: str
    remedy: str = "replace or delete it"


@dataclass
class Findings:
    """What was met while files were decoded.

    Attributes:
        damaged: By the file's place.
        several_frames: Files of which only the first frame was taken.
        greatest: Value of any pixel, before inversion.
        deepest: Greatest value of 16-bit files, as it stands in them; None where there are none.
        bits: That 16-bit files were read by; None where there are none.
    """

    damaged: dict[int, Damage] = field(default_factory=dict)
    several_frames: int = 0
    greatest: int = 0
    deepest: int | None = None
    bits: int | None = None


class _Decoded(NamedTuple):
    pixels: np.ndarray
    deepest: int | None
    several_frames: bool


def decode(path: Path, decoding: Decoding) -> np.ndarray:
    """Pixels (C, H, W), uint8, of one file.

    Raises:
        DataError: The file is damaged; names it.
    """
    with _own_limit():
        found = _decode(path, decoding)
    if isinstance(found, Damage):
        raise DataError(f"{printable(str(path))} cannot be decoded ({found.reason}); {found.remedy}.")
    return found.pixels


def decode_files(paths: Sequence[Path], decoding: Decoding) -> list[np.ndarray]:
    """Pixels (C, H, W), uint8, of each file.

    Raises:
        DataError: Files are damaged; names all of them, twenty at most.
    """
    with _own_limit():
        found = [_decode(path, decoding) for path in paths]
    refuse([(path, one) for path, one in zip(paths, found, strict=True) if isinstance(one, Damage)], len(paths), False)
    return [one.pixels for one in found if not isinstance(one, Damage)]


def decode_all(files: Sequence[Path], decoding: Decoding, findings: Findings) -> Iterator[np.ndarray]:
    """Pixels (n, C, H, W) of the whole files in their order, a chunk at a time, decoded in threads; shows its progress.

    Args:
        findings: Takes what was met, damaged files above all: they are left out.

    Raises:
        DataError: Sizes differ and ``decoding.size`` is None.
    """
    first: tuple[Path, tuple[int, ...]] | None = None
    starts = range(0, len(files), CHUNK)
    bar = Progress(console=Console(stderr=True), transient=True, disable=len(starts) == 1)
    # Pillow lets go of the interpreter's lock while it decodes and resizes
    with _own_limit(), bar, ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        for start in bar.track(starts, description=f"decoding {len(files)} images"):
            chunk, whole = files[start : start + CHUNK], []
            for place, found in enumerate(pool.map(lambda path: _decode(path, decoding), chunk)):
                if isinstance(found, Damage):
                    findings.damaged[start + place] = found
                    continue
                path, shape = chunk[place], found.pixels.shape
                first = first or (path, shape)
                if shape != first[1]:
                    raise DataError(
                        f"{printable(str(path))} is {_size(shape)} pixels, and {printable(str(first[0]))} "
                        f"{_size(first[1])}; set dataset.size."
                    )
                whole.append(found.pixels)
                findings.several_frames += found.several_frames
                if found.deepest is not None:
                    findings.deepest = max(findings.deepest or 0, found.deepest)
            if whole:
                pixels = np.stack(whole)
                greatest = 255 - int(pixels.min()) if decoding.invert else int(pixels.max())
                findings.greatest = max(findings.greatest, greatest)
                yield pixels


def decode_dataset(
    files: Sequence[Path], decoding: Decoding, take: Callable[[Iterator[np.ndarray]], Made]
) -> tuple[Made, Findings]:
    """What ``take`` makes of all chunks, and what was met; 16-bit files are read by the bits that all of them need.

    Args:
        take: Called a second time, with everything anew, where these are less than 16.
    """
    findings = Findings()
    made = take(decode_all(files, replace(decoding, bits=decoding.bits or 16), findings))
    if findings.deepest is None or decoding.value_range is not None:
        return made, findings
    needed = decoding.bits or bits_for(findings.deepest)
    if needed < 16 and decoding.bits is None:
        findings = Findings()
        made = take(decode_all(files, replace(decoding, bits=needed), findings))
    findings.bits = needed
    return made, findings


def refuse(damaged: Sequence[tuple[Path, Damage]], n: int, may_skip: bool) -> None:
    """Raises DataError that names the damaged among n files, twenty at most, with all remedies; if there are any.

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


def _decode(path: Path, decoding: Decoding) -> _Decoded | Damage:
    try:
        with Image.open(path) as opened:
            megapixels = opened.width * opened.height / 1e6
            if megapixels > decoding.max_megapixels:
                size = f"{opened.width:,} x {opened.height:,} pixels, more than {decoding.max_megapixels:g} million"
                return Damage(size, f"if it is no bomb, set dataset.max_megapixels={int(megapixels) + 1}")
            several = bool(getattr(opened, "is_animated", False))
            if megapixels < LARGE:
                return _pixels(opened, decoding, several)
            with _large:
                return _pixels(opened, decoding, several)
    except Unreadable as error:
        return Damage(str(error), error.remedy)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more, by the format
        return Damage(_why(path, error))


def _pixels(opened: Image.Image, decoding: Decoding, several: bool) -> _Decoded:
    upright = ImageOps.exif_transpose(opened)
    deepest = int(np.asarray(upright).max()) if is_deep(upright) and not upright.mode.startswith("F") else None
    upright.format = opened.format  # which a turned copy has lost
    image = eight_bits(upright, decoding.colour, decoding.value_range, decoding.bits)
    image = image.convert("L" if decoding.channels == 1 else "RGB")
    if decoding.invert:
        image = ImageOps.invert(image)
    if decoding.size is not None:
        image = ImageOps.fit(image, (decoding.size, decoding.size), Image.Resampling.LANCZOS)
    pixels = np.ascontiguousarray(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1))
    return _Decoded(pixels, deepest, several)


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    try:
        if path.stat().st_size == 0:
            return "the file is empty"
    except OSError:
        pass
    reason = " ".join(str(error).split()) or type(error).__name__
    return printable(reason.replace(repr(str(path)), "it").replace(str(path), "it"))


@contextmanager
def _own_limit() -> Iterator[None]:
    """Inside, Pillow has no limit of pixels: `Decoding.max_megapixels` is asked instead."""
    with _pillow:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]}"
