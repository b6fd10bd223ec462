"""The images of a folder that are nearest to one image, as a picture."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssl_runner.errors import printable
from ssl_runner.export.embedding import Batch
from ssl_runner.images.decoding import Damage, Decoding, decode_or_damage, pillow_limit_raised

CELL, GAP, TEXT, COLUMNS = 128, 8, 14, 6  # pixels, and images in a row
PAPER, INK, FAINT = (255, 255, 255), (32, 32, 32), (110, 110, 110)


@dataclass
class Nearest:
    """Collects the k nearest images of batches; memory does not grow with their number.

    The distance is 1 - cosine of the embeddings, in [0, 2]. Of equal distances, the first name comes first.

    Attributes:
        query: The embedding (D,) of the image.
        k: Number of neighbours.
        itself: Name of the image in the folder, which is no neighbour of itself, or None if it is elsewhere.
        found: Distance, name and label, the nearest first.
    """

    query: np.ndarray
    k: int
    itself: str | None = None
    found: list[tuple[float, str, str | None]] = field(default_factory=list)

    def add(self, batch: Batch) -> None:
        """Take the images of a batch into account."""
        query = self.query.astype(np.float64)
        rows = batch.embeddings.astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
        distances = 1 - rows @ query / np.maximum(lengths, 1e-12)
        rows_ = zip(distances.tolist(), batch.names, batch.labels, strict=True)
        new = [row for row in rows_ if row[1] != self.itself]
        self.found = sorted([*self.found, *new], key=lambda row: row[:2])[: self.k]


def name_in(folder: Path, file: Path) -> str | None:
    """Name of a file relative to a folder, with slashes, or None if it is elsewhere."""
    try:
        return printable(Path(os.path.realpath(file)).relative_to(os.path.realpath(folder)).as_posix())
    except ValueError:
        return None


def picture(file: Path, folder: Path, nearest: Nearest, invert: bool = False) -> Image.Image:
    """The image, and its neighbours in rows, each with its distance, its label and its name."""
    font = ImageFont.load_default(TEXT)
    pitch, high = CELL + GAP, CELL + 3 * (TEXT + 3) + GAP
    columns = min(COLUMNS, max(1, len(nearest.found)))
    left = pitch + 2 * GAP
    size = (left + columns * pitch + GAP, max(1, math.ceil(len(nearest.found) / columns)) * high + GAP)
    paper = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(paper)
    _paste(paper, file, (GAP, GAP), invert)
    pen.text((GAP, GAP + CELL + 3), _short(printable(file.name), font), INK, font)
    pen.line((left - GAP, GAP, left - GAP, size[1] - GAP), FAINT)
    for place, (distance, name, label) in enumerate(nearest.found):
        x, y = left + place % columns * pitch, GAP + place // columns * high
        _paste(paper, folder / name, (x, y), invert)
        texts = [(f"{distance:.4f}", INK), *([(label, INK)] if label else []), (name.rpartition("/")[2], FAINT)]
        for line, (text, color) in enumerate(texts):
            pen.text((x, y + CELL + 3 + line * (TEXT + 3)), _short(text, font), color, font)
    return paper


def _paste(paper: Image.Image, path: Path, at: tuple[int, int], invert: bool) -> None:
    with pillow_limit_raised():
        found = decode_or_damage(path, Decoding(size=None, channels=3, invert=invert))
    if isinstance(found, Damage):  # deleted in the meantime, or a name that had to be escaped
        return
    image = Image.fromarray(found.pixels.transpose(1, 2, 0))
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    paper.paste(image, (at[0] + (CELL - image.width) // 2, at[1] + (CELL - image.height) // 2))


def _short(text: str, font) -> str:
    """The text, its middle left out if it is wider than a cell."""
    if font.getlength(text) <= CELL:
        return text
    keep = len(text) - 1
    while keep > 2 and font.getlength(f"{text[: keep // 2]}...{text[-(keep - keep // 2) :]}") > CELL:
        keep -= 1
    return f"{text[: keep // 2]}...{text[-(keep - keep // 2) :]}"
