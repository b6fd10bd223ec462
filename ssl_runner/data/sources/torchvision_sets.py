"""More of torchvision's datasets: those that are arrays with a train and a test part."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Splits
from ssl_runner.data.sources.download import by_torchvision, download, torchvision_class
from ssl_runner.data.sources.source import Source, or_blank, train_and_test
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import split_source
from ssl_runner.errors import DataError


@dataclass(frozen=True)
class Opening:
    """How torchvision opens a dataset.

    Attributes:
        train: Arguments for the train part.
        test: Arguments for the test part.
        layout: Order of the axes of ``.data`` that gives (N, C, H, W), or (N, H, W).
        places: Files and folders under the root.
        counts: Number of images in the train and the test part.
        shape: (C, H, W) of an image.
        n_classes: Number of classes in each part.
        digits: Whether the classes are digits, for which torchvision has no names.
    """

    train: dict[str, Any]
    test: dict[str, Any]
    layout: tuple[int, ...]
    places: tuple[str, ...]
    counts: tuple[int, int]
    shape: tuple[int, int, int]
    n_classes: int = 10
    digits: bool = False


FLAG: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
PART: tuple[dict[str, Any], dict[str, Any]] = ({"split": "train"}, {"split": "test"})
GRAY, COLOR = (1, 28, 28), (3, 32, 32)
OPENINGS = {
    "CIFAR10": Opening(*FLAG, (0, 3, 1, 2), ("cifar-10-batches-py",), (50_000, 10_000), COLOR),
    "CIFAR100": Opening(*FLAG, (0, 3, 1, 2), ("cifar-100-python",), (50_000, 10_000), COLOR, n_classes=100),
    # its images are rotated by 90 degrees; balanced: 47 classes of digits and letters
    "EMNIST": Opening(
        {"split": "balanced", "train": True},
        {"split": "balanced", "train": False},
        (0, 2, 1),
        ("EMNIST/raw",),
        (112_800, 18_800),
        GRAY,
        n_classes=47,
    ),
    "FashionMNIST": Opening(*FLAG, (0, 1, 2), ("FashionMNIST/raw",), (60_000, 10_000), GRAY),
    "KMNIST": Opening(*FLAG, (0, 1, 2), ("KMNIST/raw",), (60_000, 10_000), GRAY),
    "MNIST": Opening(*FLAG, (0, 1, 2), ("MNIST/raw",), (60_000, 10_000), GRAY),
    "STL10": Opening(*PART, (0, 1, 2, 3), ("stl10_binary",), (5_000, 8_000), (3, 96, 96)),
    "SVHN": Opening(*PART, (0, 1, 2, 3), ("train_32x32.mat", "test_32x32.mat"), (73_257, 26_032), COLOR, digits=True),
    "USPS": Opening(*FLAG, (0, 1, 2), ("usps.bz2", "usps.t.bz2"), (7_291, 2_007), (1, 16, 16), digits=True),
}


def torchvision_set(
    name: str,
    root: PathText,
    split: Literal["images", "classes"],
    validation: float,
    class_counts: list[int] | None,
    split_seed: int,
    size: int | None,
    channels: int | None,
    duplicates: Duplicates = "warn",
) -> Splits:
    """A dataset of torchvision, with torchvision's layout under ``root``.

    Args:
        name: A key of `OPENINGS`: torchvision's name.
        root: Folder of datasets; missing files are downloaded.
        split: ``images`` or ``classes``; `split_source` describes the other settings of the split.
        validation: Number of images, or their share of the train part.
        class_counts: Numbers of classes of train, validation and test.
        split_seed: Seed of the split.
        size: Height and width after resizing; None keeps the dataset's.
        channels: 1 or 3; None keeps the dataset's.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.

    Raises:
        DataError: The name is unknown, or the dataset is missing and cannot be downloaded, or is damaged.
    """
    if name not in OPENINGS:
        raise DataError(
            f"dataset.name={name!r}: expected one of {', '.join(OPENINGS)}; for others, use dataset=image_folder."
        )
    opening = OPENINGS[name]
    class_names = [str(number) for number in range(opening.n_classes)]
    read = functools.partial(torchvision_source, name, absolute(root), size, channels)
    source = or_blank(read, name.lower(), opening.counts, opening.shape, class_names, size, channels)
    return split_source(source, split, validation, class_counts, split_seed, duplicates=duplicates)


def torchvision_source(name: str, root: Path, size: int | None, channels: int | None) -> Source:
    """All images of a dataset of torchvision; missing files are downloaded.

    Args:
        name: A key of `OPENINGS`.
        size: Height and width after resizing; None keeps the dataset's.
        channels: 1 or 3; None keeps the dataset's.

    Raises:
        DataError: The dataset is missing and cannot be downloaded, or is damaged.
    """
    opening = OPENINGS[name]
    wanted = [root / place for place in opening.places]
    if not all(path.exists() for path in wanted):
        download(name, root, wanted, by_torchvision(name, opening.train, opening.test))
    try:
        parts = [torchvision_class(name)(str(root), **part) for part in (opening.train, opening.test)]
    except Exception as error:  # RuntimeError, OSError or whatever the format's reader raises
        places = " or ".join(str(path) for path in wanted)
        raise DataError(f"{name} cannot be read: {error}; delete {places} to fetch it again.") from None
    images = [np.asarray(part.data).transpose(opening.layout) for part in parts]
    # called targets in some datasets, labels in others
    labels = [np.asarray(part.targets if hasattr(part, "targets") else part.labels) for part in parts]
    class_names = [str(digit) for digit in range(10)] if opening.digits else parts[0].classes
    return train_and_test(name.lower(), images, labels, class_names, size, channels)
