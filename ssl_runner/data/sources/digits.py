"""The 1,797 handwritten digits of scikit-learn, which need no download."""

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ssl_runner.data.dataset import Splits
from ssl_runner.data.sources.source import Source, content_hash, convert, resize
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import split_source

CLASS_NAMES = tuple(str(digit) for digit in range(10))


def digits(
    split: Literal["images", "classes"],
    validation: float,
    test: float,
    class_counts: list[int] | None,
    split_seed: int,
    size: int | None,
    channels: int | None,
    duplicates: Duplicates = "warn",
) -> Splits:
    """UCI's Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998), 8 x 8 pixels in 17 shades.

    Args:
        split: ``images`` or ``classes``; `split_source` describes the other settings of the split.
        validation: Number of images, or their share of all.
        test: Number of images, or their share of all; scikit-learn only has UCI's test part, undivided.
        class_counts: Numbers of classes of train, validation and test.
        split_seed: Seed of the split.
        size: Height and width after resizing; None keeps 8.
        channels: 1 or 3; None keeps 1.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
    """
    pixels, labels = pixels_and_labels()
    source = Source(
        name="digits",
        images=resize(convert(torch.from_numpy(pixels), channels), size),
        labels=torch.from_numpy(labels),
        class_names=CLASS_NAMES,
        class_groups=None,
        content=content_hash(pixels, size, channels),
    )
    return split_source(source, split, validation, class_counts, split_seed, test, duplicates)


def pixels_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 (1797, 1, 8, 8), where 255 is the most ink, and their labels, int64 (1797,)."""
    shades, labels = _read()
    return np.round(shades * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8), labels.astype(np.int64)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Shades (1797, 64) in 0 to 16, and labels (1797,)."""
    package = find_spec("sklearn")
    if package is not None and package.origin is not None:
        table = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if table.is_file():  # the file that load_digits reads, without its import, which takes seconds
            return _parsed(table)
    from sklearn.datasets import load_digits

    shades, labels = load_digits(return_X_y=True)
    return np.asarray(shades), np.asarray(labels)


@functools.cache
def _parsed(table: Path) -> tuple[np.ndarray, np.ndarray]:
    """Shades and labels of the table; kept, since each job of a sweep and each split in a process asks for them."""
    rows = np.loadtxt(table, delimiter=",")
    rows.flags.writeable = False
    return rows[:, :-1], rows[:, -1]
