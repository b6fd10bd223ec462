"""CIFAR-FS: CIFAR-100, split by classes."""

import functools
from dataclasses import replace
from typing import Literal

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Splits
from ssl_runner.data.sources.class_lists import ClassSplit, listed_parts, made_from, split_listed
from ssl_runner.data.sources.source import or_blank
from ssl_runner.data.sources.torchvision_sets import OPENINGS, torchvision_source
from ssl_runner.data.splits.copies import Duplicates


def cifar_fs(
    root: PathText,
    split: Literal["images", "classes"],
    class_split: ClassSplit,
    class_counts: list[int] | None,
    validation: float,
    split_seed: int,
    size: int | None,
    channels: int | None,
    duplicates: Duplicates,
) -> Splits:
    """CIFAR-100's 60,000 images, 600 in each of 100 classes, for few-shot learning (Bertinetto et al. 2019).

    The files are torchvision's, ``root/cifar-100-python``. The split of arXiv:1805.08136 has 64, 16 and 20 classes; the
    list is in lists/cifar_fs.txt. Each class has the images of CIFAR-100's train and test parts.

    Args:
        root: Folder of datasets; missing files are downloaded.
        split: ``classes``, or ``images``, which is CIFAR-100's own split; `split_source` describes the other settings.
        class_split: ``published``, or ``random``, which draws ``class_counts`` classes.
        class_counts: Numbers of classes of train, validation and test, for ``random``.
        validation: Number of images, or their share of CIFAR-100's train part, for ``split=images``.
        split_seed: Seed of all draws.
        size: Height and width after resizing; None keeps 32.
        channels: 1 or 3; None keeps 3.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.

    Raises:
        DataError: The dataset is missing and cannot be downloaded, or is damaged.
    """
    opening, parts = OPENINGS["CIFAR100"], listed_parts("cifar_fs")
    class_names = sorted(name for names in parts.values() for name in names)  # as in CIFAR-100
    read = functools.partial(torchvision_source, "CIFAR100", absolute(root), size, channels)
    source = or_blank(read, "cifar_fs", opening.counts, opening.shape, class_names, size, channels)
    source = replace(source, name="cifar_fs")
    splits = split_listed(
        source, parts, split, class_split, validation, class_counts, split_seed, duplicates=duplicates
    )
    return made_from(splits, "cifar100")
