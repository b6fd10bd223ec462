"""The digits of scikit-learn, made harder: each is at a random position on a larger canvas."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.dataset import Splits
from ssl_runner.data.sources.digits import CLASS_NAMES, pixels_and_labels
from ssl_runner.data.sources.source import Source, check_size, content_hash, convert, resize
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import split_source
from ssl_runner.errors import DataError
from ssl_runner.runtime import randomness

SEED = 0  # seed of the positions: every run sees the same images


def translated_digits(
    split: Literal["images", "classes"],
    validation: float,
    test: float,
    class_counts: list[int] | None,
    split_seed: int,
    size: int,
    digit_size: int,
    channels: int | None,
    duplicates: Duplicates = "warn",
) -> Splits:
    """Each of the 1,797 digits of `ssl_runner.data.sources.digits.digits` at a random position on a black canvas.

    It is made like the translated MNIST of Mnih et al. 2014 (arXiv:1406.6247, section 4.1). The distance between the
    pixels of two images depends on where their digits are rather than on which they are, so there is something to
    learn.

    Args:
        split: ``images`` or ``classes``; `split_source` describes the other settings of the split.
        validation: Number of images, or their share of all.
        test: Number of images, or their share of all.
        class_counts: Numbers of classes of train, validation and test.
        split_seed: Seed of the split; the positions do not depend on it.
        size: Height and width of the canvas.
        digit_size: Height and width of the digit, at most ``size``.
        channels: 1 or 3; None for 1.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.

    Raises:
        DataError: A size is out of bounds.
    """
    pixels, labels = pixels_and_labels()
    check_size(size, len(pixels), channels or 1)
    if not 1 <= digit_size <= size:
        raise DataError(
            f"dataset.digit_size={digit_size}: expected 1 to {size} pixels, the size of the canvas (dataset.size)."
        )
    canvas = _placed(resize(torch.from_numpy(pixels), digit_size), size)
    source = Source(
        name="translated_digits",
        images=convert(canvas, channels),
        labels=torch.from_numpy(labels),
        class_names=CLASS_NAMES,
        class_groups=None,
        content=content_hash(canvas.numpy(), channels),
    )
    return split_source(source, split, validation, class_counts, split_seed, test, duplicates)


def _placed(digits: Tensor, size: int) -> Tensor:
    """Canvases uint8 (N, 1, size, size) of digits (N, 1, h, h), each placed uniformly over all positions that fit."""
    n, _, side, _ = digits.shape
    draws = randomness.uniforms(SEED, "translated_digits", 0, n, 2)
    corners = torch.from_numpy(np.floor(draws * (size - side + 1)).astype(np.int64))
    rows, columns = (corners.T[..., None] + torch.arange(side)).unbind()  # (N, h) each
    canvas = torch.zeros(n, size, size, dtype=torch.uint8)
    canvas[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]] = digits[:, 0]
    return canvas[:, None]
