"""Benchmarks of few-shot learning that are folders of classes, each with its published split."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Note, Splits
from ssl_runner.data.sources.benchmark_folder import BenchmarkFolder, read_or_blank
from ssl_runner.data.sources.class_lists import ClassSplit, listed_parts, made_from, split_listed
from ssl_runner.data.sources.image_folder import Storage
from ssl_runner.data.sources.source import PARTS
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.errors import DataError
from ssl_runner.images.decoding import Decoding

PER_CLASS = 600  # images of a class of miniImageNet
N_BIRDS = 200


def mini_imagenet(
    root: PathText,
    split: Literal["images", "classes"],
    class_split: ClassSplit,
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int | None,
    channels: Literal[1, 3],
    duplicates: Duplicates,
    storage: Storage,
) -> Splits:
    """miniImageNet (Vinyals et al. 2016, arXiv:1606.04080): 600 images in each of 100 classes of ImageNet.

    The published split is that of Ravi and Larochelle (2017), 64, 16 and 20 classes (lists/mini_imagenet.txt). Three
    layouts are read: ``root/mini_imagenet/CLASS/*``, ``root/mini_imagenet/{train,val,test}/CLASS/*``, and images
    anywhere in ``root/mini_imagenet`` with the published train.csv, val.csv and test.csv beside them, which name the
    600 images of each class. Nothing is downloaded.

    Args:
        root: Folder of datasets.
        split: ``classes`` or ``images``; `split_source` describes the other settings of the split.
        class_split: ``published``, or ``random``, which draws ``class_counts`` classes.
        class_counts: Numbers of classes of train, validation and test, for ``random``.
        validation: Number of images, or their share, for ``split=images``.
        test: Same for the test part.
        split_seed: Seed of all draws.
        size: Height and width: the shorter side is resized and the center cropped. None if all images have one size.
        channels: 1 (gray) or 3 (RGB).
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        storage: ``memory``, ``packed`` or ``auto``, see `ssl_runner.data.sources.image_folder.image_folder`.

    Raises:
        DataError: The dataset is missing, incomplete or damaged.
    """
    parts = listed_parts("mini_imagenet")
    get = (
        "its images are ImageNet's, which may not be passed on: put folders of its 100 classes there, or its images "
        "with train.csv, val.csv and test.csv of github.com/twitter-research/meta-learning-lstm (data/miniImagenet)"
    )
    folder = BenchmarkFolder("mini_imagenet", "mini_imagenet", get, _sorted(parts), 60_000)
    source = read_or_blank(absolute(root), folder, Decoding(size, channels), storage)
    assert source.labels is not None
    counts = source.labels.bincount()
    if int(counts.min()) != PER_CLASS or int(counts.max()) != PER_CLASS:
        text = f"classes have {int(counts.min()):,} to {int(counts.max()):,} images; the published dataset has 600 each"
        source = replace(source, notes=(*source.notes, Note("images_per_class", counts.tolist(), text, True)))
    splits = split_listed(source, parts, split, class_split, validation, class_counts, split_seed, test, duplicates)
    return made_from(splits, "imagenet")


def tiered_imagenet(
    root: PathText,
    split: Literal["images", "classes"],
    class_split: ClassSplit,
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int | None,
    channels: Literal[1, 3],
    duplicates: Duplicates,
    storage: Storage,
) -> Splits:
    """tieredImageNet (Ren et al. 2018, arXiv:1803.00676): 608 classes of ImageNet in 34 categories of WordNet.

    The published split has 351, 97 and 160 classes (lists/tiered_imagenet.txt), and no category in two parts. The
    layouts are ``root/tiered_imagenet/CLASS/*``, which may be a link to ImageNet's training images (further classes are
    passed over), and ``root/tiered_imagenet/{train,val,test}/CLASS/*``. Nothing is downloaded. Its 779,165 images take
    15 GiB at 84 pixels; ``storage=packed`` keeps the files instead.

    Args:
        root: Folder of datasets.
        split: See `mini_imagenet`, also for the other settings.
        class_split: ``published``, or ``random``, which draws ``class_counts`` classes.
        class_counts: Numbers of classes of train, validation and test, for ``random``.
        validation: Number of images, or their share, for ``split=images``.
        test: Same for the test part.
        split_seed: Seed of all draws.
        size: Height and width: the shorter side is resized and the center cropped. None if all images have one size.
        channels: 1 (gray) or 3 (RGB).
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        storage: ``memory``, ``packed`` or ``auto``, see `ssl_runner.data.sources.image_folder.image_folder`.

    Raises:
        DataError: The dataset is missing, incomplete or damaged.
    """
    parts = listed_parts("tiered_imagenet")
    get = "its images are ImageNet's, which may not be passed on: link ImageNet's folder of training classes there"
    folder = BenchmarkFolder("tiered_imagenet", "tiered_imagenet", get, _sorted(parts), 779_165)
    source = read_or_blank(absolute(root), folder, Decoding(size, channels), storage)
    splits = split_listed(source, parts, split, class_split, validation, class_counts, split_seed, test, duplicates)
    return made_from(splits, "imagenet")


def cub(
    root: PathText,
    split: Literal["images", "classes"],
    class_split: ClassSplit,
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int | None,
    channels: Literal[1, 3],
    duplicates: Duplicates,
    storage: Storage,
) -> Splits:
    """CUB-200-2011 (Wah et al. 2011): 11,788 photographs of 200 kinds of birds, in ``root/CUB_200_2011/images/CLASS``.

    The published split is that of Chen et al. (2019, arXiv:1904.04232): of the sorted classes, every second one is for
    training (the first, the third, ...), and the others are in turn for validation and test: 100, 50 and 50. Nothing is
    downloaded.

    Args:
        root: Folder of datasets.
        split: See `mini_imagenet`, also for the other settings.
        class_split: ``published``, or ``random``, which draws ``class_counts`` classes.
        class_counts: Numbers of classes of train, validation and test, for ``random``.
        validation: Number of images, or their share, for ``split=images``.
        test: Same for the test part.
        split_seed: Seed of all draws.
        size: Height and width: the shorter side is resized and the center cropped. None if all images have one size.
        channels: 1 (gray) or 3 (RGB).
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        storage: ``memory``, ``packed`` or ``auto``, see `ssl_runner.data.sources.image_folder.image_folder`.

    Raises:
        DataError: The dataset is missing, incomplete or damaged.
    """
    get = "fetch CUB_200_2011.tgz (https://www.vision.caltech.edu/datasets/cub_200_2011) and unpack it"
    names = [f"class {number:03d}" for number in range(1, N_BIRDS + 1)]
    folder = BenchmarkFolder("cub", "CUB_200_2011/images", get, names, 11_788, all_classes=True)
    source = read_or_blank(absolute(root), folder, Decoding(size, channels), storage)
    if split == "classes" and class_split == "published" and len(source.class_names) != N_BIRDS:
        raise DataError(
            f"cub is not complete: class_split=published needs all {N_BIRDS} classes, but there are "
            f"{len(source.class_names)}; unpack it again, or set dataset.class_split=random."
        )
    parts = chen_split(source.class_names)
    return split_listed(source, parts, split, class_split, validation, class_counts, split_seed, test, duplicates)


def chen_split(class_names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The parts of CUB's sorted classes in the split of Chen et al. (2019)."""
    return {"train": class_names[::2], "validation": class_names[1::4], "test": class_names[3::4]}


def _sorted(parts: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted(name for part in PARTS for name in parts[part])
