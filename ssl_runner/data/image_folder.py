"""A folder of images of one's own."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ssl_runner.data.cache import load_images
from ssl_runner.data.class_files import read_lists, read_tables
from ssl_runner.data.dataset import Splits
from ssl_runner.data.decoding import Decoding
from ssl_runner.data.files import ImageFile, scan
from ssl_runner.data.roots import DataError, absolute
from ssl_runner.data.source import PARTS, Source
from ssl_runner.data.splitting import split_by_classes, split_source

PART_FOLDERS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def image_folder(
    root: str,
    split: Literal["images", "classes"],
    class_split: str | None,
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int | None,
    channels: Literal[1, 3],
) -> Splits:
    """Images of any size and format under one of three layouts, decoded once and kept in the cache.

    ``root/{train,val,test}/CLASS/**`` (``validation`` may be the name too), ``root/CLASS/**``, or images without
    labels straight in ``root`` or in its parts. A root with train and val but without test is read as ImageNet's:
    val is the test part, because accuracies are reported on it. With train only, or without parts, test is drawn.

    By classes, parts that share no class are the split (so miniImageNet is often unpacked); else ``class_split``
    says it, else ``class_counts`` are drawn.

    Args:
        root: The folder.
        split: ``images`` or ``classes``; the other keys of splitting are described in `split_source`.
        class_split: For ``classes``: a folder with train.csv, val.csv and test.csv of ``filename,label``, or one YAML
            or JSON file, ``{train: [class, ...], validation: [...], test: [...]}``; None for neither.
        class_counts: Classes of train, validation and test; None for shares of 64, 16 and 20%.
        validation: Images, or their share of those that are not in a test folder; unused with a validation folder.
        test: Images, or their share; unused with a test folder.
        split_seed: Of all draws.
        size: Height and width: the shorter side is resized, the middle cut out. None where all are of one size.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        DataError: The folder is missing, empty or laid out otherwise, or an image is damaged; names it.
    """
    folder, decoding = absolute(root), Decoding(size=size, channels=channels)
    if class_split is not None and split != "classes":
        raise DataError(f"dataset.class_split={class_split} needs dataset.split=classes, got {split!r}.")
    files, given = scan(folder), None if class_split is None else absolute(class_split)
    if given is not None and given.is_dir():
        files, labels, parts = read_tables(given, files)
        # a selection of files of its own, so an entry of its own
        source = _source(f"image_folder-{_tag(given)}", folder, files, labels, {}, decoding)
        return split_by_classes(source, {part: [source.class_names.index(n) for n in parts[part]] for part in PARTS})
    files, official, depth = _layout(folder, files)
    labels = [file.path[depth] for file in files] if len(files[0].path) > depth + 1 else None
    lists = None if given is None else read_lists(given, sorted(set(labels or ())))  # before decoding, which is long
    source = _source("image_folder", folder, files, labels, official, decoding)
    if lists is not None:
        return split_by_classes(source, lists)
    seen = _classes_of_parts(source)
    if split == "classes" and len(seen) > 1 and sum(map(len, seen.values())) == len(set().union(*seen.values())):
        return split_by_classes(source, {part: sorted(seen.get(part, ())) for part in PARTS})
    if split == "images":
        _check_trained(source, seen)
    return split_source(source, split, validation, class_counts, split_seed, test)


def _layout(folder: Path, files: list[ImageFile]) -> tuple[list[ImageFile], dict[str, torch.Tensor], int]:
    """The files that belong to the layout, the indices of its parts, and how deep in the paths the classes are."""
    depth = 1 if any(file.path[0] == "train" and len(file.path) > 1 for file in files) else 0
    if depth:
        files = [file for file in files if len(file.path) > 1 and file.path[0] in PART_FOLDERS]
    flat = sum(len(file.path) == depth + 1 for file in files)
    if flat not in (0, len(files)):
        loose = next(file for file in files if len(file.path) == depth + 1)
        raise DataError(
            f"{folder.joinpath(*loose.path)} lies beside folders of images: are there classes or not? Move it into one."
        )
    if not depth:
        return files, {}, 0
    indices: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        indices.setdefault(PART_FOLDERS[file.path[0]], []).append(index)
    official = {part: torch.tensor(places) for part, places in indices.items()}
    if "test" not in official and "validation" in official:
        official["test"] = official.pop("validation")
    return files, official, depth


def _source(
    name: str,
    folder: Path,
    files: Sequence[ImageFile],
    labels: Sequence[str] | None,
    official: dict[str, torch.Tensor],
    decoding: Decoding,
) -> Source:
    images, content = load_images(name, folder, files, decoding)
    class_names = sorted(set(labels or ()))
    number = {class_name: label for label, class_name in enumerate(class_names)}
    return Source(
        name=folder.name,
        images=images,
        labels=None if labels is None else torch.tensor([number[label] for label in labels]),
        class_names=tuple(class_names),
        class_groups=None,
        content=content,
        official=official,
    )


def _classes_of_parts(source: Source) -> dict[str, set[int]]:
    if source.labels is None:
        return {}
    return {part: set(source.labels[indices].tolist()) for part, indices in source.official.items()}


def _check_trained(source: Source, seen: dict[str, set[int]]) -> None:
    for part, classes in seen.items():
        if strange := sorted(classes - seen["train"]):
            raise DataError(
                f"class {source.class_names[strange[0]]!r} of {source.name}/{part} has no images in train; "
                "if the parts are meant to have different classes, set dataset.split=classes."
            )


def _tag(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:8]
