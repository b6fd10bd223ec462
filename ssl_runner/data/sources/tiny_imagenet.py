"""Tiny ImageNet, as it is published or as folders of classes."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Splits, held
from ssl_runner.data.sources.cache import load_images
from ssl_runner.data.sources.class_lists import listed_parts, read_list, split_listed, without_classes
from ssl_runner.data.sources.source import PARTS, Source, blank, convert, resize
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.errors import DataError, NotDownloaded, printable
from ssl_runner.images.decoding import Decoding
from ssl_runner.images.files import ImageFile, Scan, scan
from ssl_runner.runtime.no_download import refuse_download

PUBLISHED, FOLDERS = "tiny-imagenet-200", "tiny-imagenet"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def tiny_imagenet(
    root: PathText,
    split: Literal["images", "classes"],
    validation: float,
    class_counts: list[int] | None,
    split_seed: int,
    size: int | None,
    channels: int | None,
    duplicates: Duplicates = "warn",
    class_split: Literal["fixed", "random"] = "random",
    without: Literal["cifar10"] | None = None,
) -> Splits:
    """100,000 training and 10,000 validation images of 64 x 64 pixels in 200 classes (Le and Yang 2015).

    ``root/tiny-imagenet-200`` (as published) is read if it exists, otherwise ``root/tiny-imagenet/{train,test}/CLASS``.
    Nothing is downloaded. The published validation part is the test part here, as in papers, because the labels of the
    published test part are secret; validation images are drawn from the train part.

    Args:
        root: Folder of datasets.
        split: ``images`` or ``classes``; `split_source` describes the other settings of the split.
        validation: Number of images of the train part, or their share.
        class_counts: Numbers of classes of train, validation and test, for ``class_split=random``.
        split_seed: Seed of the split.
        size: Height and width after resizing; None keeps 64.
        channels: 1 or 3; None keeps 3.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        class_split: For ``classes``: ``fixed`` is the list in lists/tiny_imagenet.txt, 128, 32 and 40 classes, with no
            kind of thing (dogs, clothes, vehicles) in two parts; ``random`` draws ``class_counts`` classes. Configs of
            earlier versions lack it.
        without: ``cifar10`` leaves out the classes that show a kind of CIFAR-10, which
            lists/tiny_imagenet_like_cifar10.txt names with the reasons; None leaves out none. Configs of earlier
            versions lack it.

    Raises:
        DataError: The dataset is missing, incomplete or damaged.
    """
    parts = listed_parts("tiny_imagenet")
    try:
        source = _read(absolute(root), size, channels)
    except NotDownloaded:
        names = sorted(name for part in PARTS for name in parts[part])
        source = blank("tiny_imagenet", {"train": 100_000, "test": 10_000}, (3, 64, 64), names, size, channels)
    if without is not None:
        unwanted = like(without)
        source = without_classes(source, unwanted, without)
        parts = {part: [name for name in parts[part] if name not in unwanted] for part in PARTS}
    return split_listed(
        source, parts, split, class_split, validation, class_counts, split_seed, 0, duplicates, listed="fixed"
    )


def like(other: str) -> list[str]:
    """The classes that show a kind of another dataset.

    Raises:
        DataError: There is no list for it.
    """
    if other != "cifar10":
        raise DataError(f"dataset.without={other!r}: expected 'cifar10', or null to leave out no class.")
    return [line.name for line in read_list("tiny_imagenet_like_cifar10")]


def _read(root: Path, size: int | None, channels: int | None) -> Source:
    published, folders = root / PUBLISHED, root / FOLDERS
    if not published.is_dir() and not folders.is_dir():
        refuse_download("tiny_imagenet")
        raise DataError(
            f"tiny_imagenet is missing: looked for {published} and {folders}; fetch {URL} and unpack it there, or set "
            "dataset.root."
        )
    folder = published if published.is_dir() else folders
    found = scan(folder)
    labelled = _published(folder, found) if folder == published else _in_folders(found)
    found.files = list(labelled)
    parts, classes = (np.array([labelled[file][place] for file in found.files]) for place in (0, 1))
    class_names = sorted(set(classes[parts == "train"].tolist()))
    if not class_names or set(classes[parts == "test"].tolist()) != set(class_names):
        raise DataError(f"{folder} is not complete: its test part does not have the classes of train; unpack it again.")
    loaded = load_images("tiny_imagenet", folder, found, Decoding(size=None, channels=3))
    number = {name: label for label, name in enumerate(class_names)}
    return Source(
        name="tiny_imagenet",
        images=resize(convert(held(loaded.images, "tiny_imagenet"), channels), size),
        labels=torch.tensor([number[name] for name in classes.tolist()]),
        class_names=tuple(map(printable, class_names)),
        class_groups=None,
        content=f"{loaded.content} {size} {channels}",
        official={part: torch.from_numpy(np.flatnonzero(parts == part)) for part in ("train", "test")},
    )


def _published(folder: Path, found: Scan) -> dict[ImageFile, tuple[str, str]]:
    """Part and class of each labelled file of the published layout.

    These are ``train/CLASS/images/*.JPEG`` and ``val/images/*.JPEG``, with the classes of val in a table.
    """
    table = folder / "val" / "val_annotations.txt"
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror}); unpack {URL} again.") from None
    class_of = dict(line.split("\t")[:2] for line in lines if "\t" in line)
    labelled = {}
    for file in found.files:
        if len(file.path) == 4 and file.path[::2] == ("train", "images"):
            labelled[file] = ("train", file.path[1])
        elif len(file.path) == 3 and file.path[:2] == ("val", "images"):
            if file.path[2] not in class_of:
                raise DataError(f"{table} has no line for {printable(file.path[2])}; unpack {URL} again.")
            labelled[file] = ("test", class_of[file.path[2]])
    return labelled


def _in_folders(found: Scan) -> dict[ImageFile, tuple[str, str]]:
    """Part and class of each file in ``{train,test}/CLASS``."""
    return {
        file: (file.path[0], file.path[1])
        for file in found.files
        if len(file.path) == 3 and file.path[0] in ("train", "test")
    }
