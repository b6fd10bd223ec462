"""Decides which folders of images are parts of a dataset, and which are its classes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from ssl_runner.data.dataset import Note
from ssl_runner.errors import DataError, printable
from ssl_runner.images.files import ImageFile

# in lower case
PART_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Layout:
    """How the files of a folder are interpreted.

    Attributes:
        files: The files that belong to the dataset.
        official: Indices of its parts among the files; empty if there are none.
        labels: The class of each file, or None.
        notes: Notes on what was left out.
    """

    files: list[ImageFile]
    official: dict[str, torch.Tensor]
    labels: list[str] | None
    notes: tuple[Note, ...]


def layout_of(folder: Path, files: list[ImageFile]) -> Layout:
    """The layout of a folder's images: parts of classes, parts without labels, classes, or no labels at all.

    ``train`` is a part if it contains folders of classes, or if there are only parts next to it. Otherwise it is a
    class, as the trains of COCO are. Whatever is next to the parts is left out, with a note.

    Args:
        folder: The folder, for messages.
        files: All files, at least one.

    Raises:
        DataError: The layout is ambiguous; the message says what to move or to set.
    """
    folders = Counter(file.path[0] for file in files if len(file.path) > 1)
    parts = _parts(folder, files, folders)
    depth, notes = 0, ()
    if parts:
        depth, left_out = 1, Counter(printable(file.path[0]) for file in files if file.path[0] not in parts)
        files = [file for file in files if file.path[0] in parts]
        if left_out:
            named = ", ".join(f"{name} ({n:,} images)" for name, n in left_out.most_common(5))
            more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
            text = f"left out, because it is next to the parts {', '.join(map(printable, parts))}: {named}{more}"
            notes = (Note("beside_the_parts", dict(left_out), text, True),)
    flat = sum(len(file.path) == depth + 1 for file in files)
    if flat not in (0, len(files)):
        loose = next(file for file in files if len(file.path) == depth + 1)
        raise DataError(
            f"{printable(str(folder.joinpath(*loose.path)))} is next to folders of images, so it is unclear whether "
            "these are classes. Move it into one of them."
        )
    labels = None if flat else [printable(file.path[depth]) for file in files]
    if not parts and labels is not None:
        _refuse_one_level_too_high(folder, files)
    return Layout(files, _official(files, parts), labels, notes)


def _parts(folder: Path, files: list[ImageFile], folders: Counter[str]) -> dict[str, str]:
    """The part of each folder that is one; empty if the folders are classes."""
    alike = {name: PART_FOLDERS[name.lower()] for name in folders if name.lower() in PART_FOLDERS}
    if not alike:
        return {}
    here, named = printable(str(folder)), ", ".join(map(printable, sorted(alike)))
    others = [name for name in folders if name not in alike]
    train = next((name for name, part in alike.items() if part == "train"), None)
    if not others:
        _refuse_two_for_one_part(here, alike)
        if train is None and len(alike) > 1:
            raise DataError(f"{here} has the parts {named}, but no training part; rename one of them to train.")
        return alike if train is not None else {}
    other, n_other = printable(others[0]), folders[others[0]]
    if train is None or not any(file.path[0] == train and len(file.path) > 2 for file in files):
        if train is not None and len(alike) > 1:
            raise DataError(
                f"{here} has the folders {named}, which look like parts of a dataset, next to {other} "
                f"({n_other:,} images): are they parts or classes? Move {other} elsewhere, or put the images of "
                "each part into class folders."
            )
        return {}
    if len(alike) == 1:
        raise DataError(
            f"{here} has {train} with folders of classes in it, next to {other} ({n_other:,} images): is {train} "
            f"a part or a class? Move {other} elsewhere, or set dataset.root={printable(str(folder / train))}."
        )
    _refuse_two_for_one_part(here, alike)
    return alike


def _refuse_two_for_one_part(here: str, alike: dict[str, str]) -> None:
    for part, n in Counter(alike.values()).items():
        if n > 1:
            both = " and ".join(printable(name) for name, own in sorted(alike.items()) if own == part)
            raise DataError(f"{here} has the folders {both}, which are both the {part} part; rename or move one.")


def _refuse_one_level_too_high(folder: Path, files: list[ImageFile]) -> None:
    """Raises DataError if a single folder contains parts, because the dataset is that folder."""
    top = {file.path[0] for file in files}
    below = {file.path[1].lower() for file in files if len(file.path) > 2}
    if len(top) == 1 and "train" in {PART_FOLDERS.get(name) for name in below} and below <= PART_FOLDERS.keys():
        inner = printable(str(folder / next(iter(top))))
        raise DataError(
            f"{printable(str(folder))} only contains the folder {printable(next(iter(top)))}, which contains the parts "
            f"{', '.join(sorted(below))}; set dataset.root={inner}."
        )


def _official(files: list[ImageFile], parts: dict[str, str]) -> dict[str, torch.Tensor]:
    """Indices of the parts. If there is no test part, val becomes test, because accuracies are reported on it."""
    places: dict[str, list[int]] = {}
    for place, file in enumerate(files if parts else []):
        places.setdefault(parts[file.path[0]], []).append(place)
    official = {part: torch.tensor(own) for part, own in places.items()}
    if "test" not in official and "validation" in official:
        official["test"] = official.pop("validation")
    return official
