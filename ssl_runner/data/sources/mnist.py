"""MNIST and Fashion-MNIST, read from torchvision's files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Splits
from ssl_runner.data.sources.download import by_torchvision, download
from ssl_runner.data.sources.source import Source, or_blank, train_and_test
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import split_source
from ssl_runner.errors import DataError

CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def mnist(
    root: PathText,
    split: Literal["images", "classes"],
    validation: float,
    class_counts: list[int] | None,
    split_seed: int,
    size: int | None,
    channels: int | None,
    duplicates: Duplicates = "warn",
) -> Splits:
    """70,000 handwritten digits of 28 x 28 pixels (LeCun et al. 1998), in ``root/MNIST/raw``.

    Args:
        root: Folder of datasets; missing files are downloaded.
        split: ``images`` or ``classes``; `split_source` describes the other settings of the split.
        validation: Number of images, or their share of the 60,000 images of the train part.
        class_counts: Numbers of classes of train, validation and test.
        split_seed: Seed of the split.
        size: Height and width after resizing; None keeps 28.
        channels: 1 or 3; None keeps 1.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.

    Raises:
        DataError: The dataset is missing and cannot be downloaded, or is damaged.
    """
    source = _source("mnist", "MNIST", root, tuple(str(digit) for digit in range(10)), size, channels)
    return split_source(source, split, validation, class_counts, split_seed, duplicates=duplicates)


def fashion_mnist(
    root: PathText,
    split: Literal["images", "classes"],
    validation: float,
    class_counts: list[int] | None,
    split_seed: int,
    size: int | None,
    channels: int | None,
    duplicates: Duplicates = "warn",
) -> Splits:
    """70,000 pictures of clothes (Xiao et al. 2017, arXiv:1708.07747), in ``root/FashionMNIST/raw``; see `mnist`."""
    source = _source("fashion_mnist", "FashionMNIST", root, CLOTHES, size, channels)
    return split_source(source, split, validation, class_counts, split_seed, duplicates=duplicates)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file: bytes 0 0 8 and the number of dimensions, big-endian sizes, the content.

    Raises:
        DataError: It is not such a file, or is truncated.
    """
    content = path.read_bytes()
    n_dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * n_dimensions
    shape = np.frombuffer(content[4:start], ">u4").tolist() if len(content) >= start else []
    if not n_dimensions or len(shape) != n_dimensions or len(content) != start + math.prod(shape):
        raise DataError(f"{path} is damaged ({len(content)} bytes do not fit its header); delete it to fetch it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _source(
    name: str, folder: str, root: str, class_names: Sequence[str], size: int | None, channels: int | None
) -> Source:
    raw = absolute(root) / folder / "raw"
    images = [raw / f"{part}-images-idx3-ubyte" for part in ("train", "t10k")]
    labels = [raw / f"{part}-labels-idx1-ubyte" for part in ("train", "t10k")]

    def read() -> Source:
        if not all(path.exists() for path in images + labels):
            download(name, absolute(root), images + labels, by_torchvision(folder))
        pixels, classes = ([read_idx(path) for path in paths] for paths in (images, labels))
        return train_and_test(name, pixels, classes, class_names, size, channels)

    return or_blank(read, name, (60_000, 10_000), (1, 28, 28), class_names, size, channels)
