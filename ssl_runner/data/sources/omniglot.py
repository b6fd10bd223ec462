"""Omniglot: 1,623 handwritten characters from 50 alphabets, 20 drawings of each."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Dataset, Splits, held
from ssl_runner.data.sources.cache import load_images
from ssl_runner.data.sources.download import download
from ssl_runner.data.sources.source import Source, blank, convert
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import check_split_seed, split_by_classes, split_source
from ssl_runner.errors import DataError, NotDownloaded
from ssl_runner.images.decoding import Decoding
from ssl_runner.images.files import scan

FOLDER = "omniglot-py"
PARTS = ("images_background", "images_evaluation")
N_CHARACTERS, N_TEST = 1623, 423
VALIDATION_ALPHABETS = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")


def omniglot(
    root: PathText,
    split: Literal["images", "classes"],
    class_split: Literal["random", "vinyals"],
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    rotations: bool,
    size: int | None,
    channels: int | None,
    duplicates: Duplicates = "warn",
) -> Splits:
    """Omniglot (Lake et al. 2015), white ink on black, in ``root/omniglot-py/images_{background,evaluation}``.

    Classes are characters, and their groups are the alphabets.

    Args:
        root: Folder of datasets; missing files are downloaded.
        split: ``classes``, or ``images``, which splits each character's 20 drawings.
        class_split: ``random`` draws ``class_counts`` characters. ``vinyals`` is the split of Vinyals et al. (2016,
            arXiv:1606.04080) as published by Snell et al. (2017, arXiv:1703.05175), reconstructed without its files:
            alphabets in sorted order, background first; the last 423 characters are test, and five of the other
            alphabets are validation. With rotations, this gives 4,112, 688 and 1,692 classes.
        class_counts: Numbers of characters of train, validation and test, for ``random``.
        validation: Number of drawings, or their share of all, for ``split=images``.
        test: Same for the test part.
        split_seed: Seed of all draws.
        rotations: Whether each character rotated by 90, 180 and 270 degrees makes three more classes (Santoro et al.
            2016, arXiv:1605.06065). Rotations are made after the split, so no character is in two parts.
        size: Height and width after resizing; None keeps 105.
        channels: 1 or 3; None keeps 1.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.

    Raises:
        DataError: The dataset is missing and cannot be downloaded, or is damaged.
    """
    check_split_seed(split_seed)  # vinyals does not use it
    try:
        source = _source(absolute(root) / FOLDER, size, channels)
    except NotDownloaded:
        source = _blank(size, channels)
    if split == "classes" and class_split == "vinyals":
        splits = split_by_classes(source, vinyals_classes(source.class_groups or ()), duplicates)
    elif class_split in ("random", "vinyals"):
        splits = split_source(source, split, validation, class_counts, split_seed, test, duplicates)
    else:
        raise DataError(f"dataset.class_split={class_split!r}: expected 'random' or 'vinyals'.")
    if not rotations:
        return splits
    validated = None if splits.validation is None else with_rotations(splits.validation)
    return replace(splits, train=with_rotations(splits.train), validation=validated, test=with_rotations(splits.test))


def vinyals_classes(alphabets: Sequence[str]) -> dict[str, list[int]]:
    """Characters of train, validation and test, from the alphabet of each character in sorted order, background first.

    Raises:
        DataError: Some characters are missing.
    """
    if len(alphabets) != N_CHARACTERS:
        raise DataError(f"class_split=vinyals needs all {N_CHARACTERS} characters, but there are {len(alphabets)}.")
    seen = range(N_CHARACTERS - N_TEST)
    validation = [character for character in seen if alphabets[character] in VALIDATION_ALPHABETS]
    return {
        "train": [character for character in seen if alphabets[character] not in VALIDATION_ALPHABETS],
        "validation": validation,
        "test": list(range(N_CHARACTERS - N_TEST, N_CHARACTERS)),
    }


def with_rotations(dataset: Dataset) -> Dataset:
    """Four times the images and classes: unchanged, and rotated counter-clockwise by 90, 180 and 270 degrees."""
    labels: Tensor = dataset.labels  # type: ignore[assignment]
    turned = [torch.rot90(held(dataset.images, "omniglot"), turns, dims=(2, 3)) for turns in range(4)]
    names = [f"{name}/rot{90 * turns}" for turns in range(4) for name in dataset.class_names]
    return Dataset(
        name=dataset.name,
        images=torch.cat(turned),
        labels=torch.cat([labels + turns * dataset.n_classes for turns in range(4)]),
        class_names=tuple(names),
        class_groups=None if dataset.class_groups is None else dataset.class_groups * 4,
        fingerprint=hashlib.sha256(f"{dataset.fingerprint} rotations".encode()).hexdigest()[:16],
        class_domains=None if dataset.class_domains is None else dataset.class_domains * 4,
    )


def _source(folder: Path, size: int | None, channels: int | None) -> Source:
    trees = [folder / part for part in PARTS]
    if not all(tree.is_dir() for tree in trees):
        download("omniglot", folder.parent, trees, _fetch)
    found = scan(folder)
    found.files = files = [file for file in found.files if len(file.path) == 4 and file.path[0] in PARTS]
    characters = sorted({file.path[:3] for file in files})  # images_background sorts before images_evaluation
    number = {character: label for label, character in enumerate(characters)}
    loaded = load_images("omniglot", folder, found, Decoding(size=size, channels=1, invert=True))
    return Source(
        name="omniglot",
        images=convert(held(loaded.images, "omniglot"), channels),
        labels=torch.tensor([number[file.path[:3]] for file in files]),
        class_names=tuple(f"{alphabet}/{character}" for _, alphabet, character in characters),
        class_groups=tuple(alphabet for _, alphabet, _ in characters),
        content=f"{loaded.content} {channels}",
    )


def _blank(size: int | None, channels: int | None) -> Source:
    """Twenty blank drawings of every character, with alphabets that give Vinyals' validation part 172 characters."""
    names = [str(character) for character in range(N_CHARACTERS)]
    sizes = dict(zip(VALIDATION_ALPHABETS, (41, 46, 22, 22, 41), strict=True))
    groups = [alphabet for alphabet, size in sizes.items() for _ in range(size)]
    groups += ["another"] * (N_CHARACTERS - len(groups))
    source = blank("omniglot", {"all": 20 * N_CHARACTERS}, (1, 105, 105), names, size, channels)
    return replace(source, class_groups=tuple(groups), official={})


def _fetch(root: str) -> None:
    from torchvision import datasets  # takes seconds to import

    for background in (True, False):
        datasets.Omniglot(root, background=background, download=True)
