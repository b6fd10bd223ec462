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
    """How torchvision opens one dataset.

    Attributes:
        train: Arguments for the train part.
        test: Arguments for the test part.
        layout: Axes of ``.data`` that make (N, C, H, W), or (N, H, W).
        places: What lies under the root.
        counts: Images of the train and the test part.
        shape: (C, H, W) of an image.
        n_classes: In each part.
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
    # its pictures lie on their sides; balanced: 47 classes of digits and letters
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
    """A dataset of torchvision, laid out under ``root`` as torchvision does.

    Args:
        name: A key of `OPENINGS`: torchvision's name.
        root: Folder of datasets; what is missing there is downloaded.
        split: ``images`` or ``classes``; the other keys of splitting are described in `split_source`.
        validation: Images, or their share of the train part.
        class_counts: Classes of train, validation and test.
        split_seed: Of the split.
        size: Height and width after resizing; None leaves the dataset's.
        channels: 1 or 3; None leaves the dataset's.
        duplicates: `ssl_runner.data.splits.copies.without_copies` says what happens to images that stand in two parts.

    Raises:
        DataError: The name is unknown, or the dataset is missing and cannot be downloaded, or damaged.
    """
    if name not in OPENINGS:
        raise DataError(f"dataset.name={name!r}: expected one of {', '.join(OPENINGS)}; else use dataset=image_folder.")
    opening = OPENINGS[name]
    class_names = [str(number) for number in range(opening.n_classes)]
    read = functools.partial(_source, name, absolute(root), size, channels)
    source = or_blank(read, name.lower(), opening.counts, opening.shape, class_names, size, channels)
    return split_source(source, split, validation, class_counts, split_seed, duplicates=duplicates)


def _source(name: str, root: Path, size: int | None, channels: int | None) -> Source:
    opening = OPENINGS[name]
    wanted = [root / place for place in opening.places]
    if not all(path.exists() for path in wanted):
        download(name, root, wanted, by_torchvision(name, opening.train, opening.test))
    try:
        parts = [torchvision_class(name)(str(root), **part) for part in (opening.train, opening.test)]
    except Exception as error:  # RuntimeError, OSError or whatever the format's reader raises
        places = " or ".join(str(path) for path in wanted)
        raise DataError(f"{name} cannot be read: {error}; delete {places} to fetch it anew.") from None
    images = [np.asarray(part.data).transpose(opening.layout) for part in parts]
    # some call them targets, some labels
    labels = [np.asarray(part.targets if hasattr(part, "targets") else part.labels) for part in parts]
    class_names = [str(digit) for digit in range(10)] if opening.digits else parts[0].classes
    return train_and_test(name.lower(), images, labels, class_names, size, channels)
