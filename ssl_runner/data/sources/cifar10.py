"""CIFAR-10, from torchvision's pickles or from a folder of JPEGs."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Splits, held
from ssl_runner.data.sources.cache import load_images
from ssl_runner.data.sources.download import by_torchvision, download, torchvision_class
from ssl_runner.data.sources.source import Source, convert, or_blank, resize, train_and_test
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import split_source
from ssl_runner.errors import DataError
from ssl_runner.images.decoding import Decoding
from ssl_runner.images.files import scan

PICKLES, JPEGS = "cifar-10-batches-py", "cifar10-jpg"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(
    root: PathText,
    split: Literal["images", "classes"],
    validation: float,
    class_counts: list[int] | None,
    split_seed: int,
    size: int | None,
    channels: int | None,
    duplicates: Duplicates = "warn",
) -> Splits:
    """60,000 photographs of 32 x 32 pixels (Krizhevsky 2009).

    ``root/cifar-10-batches-py`` (torchvision's) is read if it exists, otherwise ``root/cifar10-jpg/{train,test}/CLASS``
    (JPEGs, whose pixels differ slightly, and so does the fingerprint). If neither exists, the former is downloaded.

    Args:
        root: Folder of datasets.
        split: ``images`` or ``classes``; `split_source` describes the other settings of the split.
        validation: Number of images, or their share of the 50,000 images of the train part.
        class_counts: Numbers of classes of train, validation and test.
        split_seed: Seed of the split.
        size: Height and width after resizing; None keeps 32.
        channels: 1 or 3; None keeps 3.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.

    Raises:
        DataError: The dataset is missing and cannot be downloaded, or is damaged.
    """
    pickles, jpegs = absolute(root) / PICKLES, absolute(root) / JPEGS

    def read() -> Source:
        if not pickles.exists() and jpegs.exists():
            return _from_jpegs(jpegs, size, channels)
        return _from_pickles(absolute(root), size, channels)

    source = or_blank(read, "cifar10", (50_000, 10_000), (3, 32, 32), CLASSES, size, channels)
    return split_source(source, split, validation, class_counts, split_seed, duplicates=duplicates)


def _from_pickles(root: Path, size: int | None, channels: int | None) -> Source:
    if not (root / PICKLES).exists():
        download("cifar10", root, [root / PICKLES, root / JPEGS], by_torchvision("CIFAR10"))
    try:  # it verifies checksums before it opens pickles
        parts = [torchvision_class("CIFAR10")(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(f"{root / PICKLES} is damaged ({error}); delete it to fetch it again.") from None
    images = [part.data.transpose(0, 3, 1, 2) for part in parts]
    return train_and_test("cifar10", images, [np.array(part.targets) for part in parts], CLASSES, size, channels)


def _from_jpegs(folder: Path, size: int | None, channels: int | None) -> Source:
    found = scan(folder)
    found.files = files = [file for file in found.files if len(file.path) == 3]
    parts = np.array([file.path[0] for file in files])
    missing = [
        f"{part}/{name}" for part in ("train", "test") for name in CLASSES if not (folder / part / name).is_dir()
    ]
    if missing:
        raise DataError(f"{folder} is not complete: {missing[0]} is missing; unpack it again.")
    loaded = load_images("cifar10", folder, found, Decoding(size=None, channels=3))
    return Source(
        name="cifar10",
        images=resize(convert(held(loaded.images, "cifar10"), channels), size),
        labels=torch.tensor([CLASSES.index(file.path[1]) for file in files]),
        class_names=CLASSES,
        class_groups=None,
        content=f"{loaded.content} {size} {channels}",
        official={part: torch.from_numpy(np.flatnonzero(parts == part)) for part in ("train", "test")},
    )
