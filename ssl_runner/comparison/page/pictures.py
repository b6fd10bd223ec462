"""Small copies of the pictures that a run logged for TensorBoard, as text that stands inside a page."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from ssl_runner.runs.logged import records

BUDGET = 4_000_000  # bytes of text for all pictures of a page
_WIDTHS = (800, 560, 400, 280, 200)  # pixels; below the last, nothing can be recognised
_MOST = 6  # pictures of a run
_SMALLEST = 8_000  # bytes of text for a run, below which its event files are not worth reading
_LEAST = 0.1  # bytes of text for a pixel, at least: sizes that cannot fit are not tried


@dataclass(frozen=True)
class Picture:
    """A picture of a run.

    Attributes:
        tag: As in TensorBoard.
        step: When it was logged.
        width: In pixels.
        height: In pixels.
        address: A data URI.
    """

    tag: str
    step: int
    width: int
    height: int
    address: str


def pictures(folders: Sequence[Path], budget: int = BUDGET) -> list[list[Picture]]:
    """For each run folder, the last picture of every tag, as large as all together may be.

    A run whose pictures are too large even at the smallest width has only its first ones, or none.

    Args:
        folders: Of the runs.
        budget: Bytes of text for all.
    """
    share = budget // max(len(folders), 1)
    if share < _SMALLEST:
        return [[] for _ in folders]
    # a power of two: while a sweep runs and is watched, not every new run makes all pictures again
    return [_within(1 << share.bit_length() - 1, _state(folder)) for folder in folders]


def _state(folder: Path) -> tuple[tuple[Path, int, int], ...]:
    """The event files of a folder; it changes when a file does."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((path, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


@lru_cache(maxsize=2_000)
def _within(share: int, files: tuple[tuple[Path, int, int], ...]) -> list[Picture]:
    last = {tag: (step, data) for path, *_ in files for tag, step, data in _logged(path)}
    chosen = [(tag, *last[tag]) for tag in sorted(last, key=lambda tag: (last[tag][0], tag))[-_MOST:]]
    images = [(tag, step, image) for tag, step, data in chosen if (image := _decoded(data)) is not None]
    found: list[Picture] = []
    for width in _WIDTHS:
        sizes = [_size(image, width) for *_, image in images]
        if width > _WIDTHS[-1] and _LEAST * sum(across * down for across, down in sizes) > share:
            continue
        found = [_small(*one, size) for one, size in zip(images, sizes, strict=True)]
        if sum(len(one.address) for one in found) <= share:
            return found
    while sum(len(one.address) for one in found) > share:
        found.pop()
    return found


def _logged(path: Path) -> Iterator[tuple[str, int, bytes]]:
    try:
        data = path.read_bytes()
    except OSError:
        return
    for _, event in records(data):
        for value in event.summary.value:
            if value.HasField("image"):
                yield value.tag, event.step, value.image.encoded_image_string


def _decoded(data: bytes) -> Image.Image | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):  # of another program, or damaged
        return None


def _size(image: Image.Image, width: int) -> tuple[int, int]:
    scale = min(1, width / image.width, 4 * width / image.height)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _small(tag: str, step: int, image: Image.Image, size: tuple[int, int]) -> Picture:
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2).save(file, "WEBP", quality=70, method=0)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return Picture(tag, step, *size, f"data:image/webp;base64,{text}")
