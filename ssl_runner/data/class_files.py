"""Files that say which class is for training and which is held out."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from ssl_runner.data.files import ImageFile
from ssl_runner.data.roots import DataError
from ssl_runner.data.source import PARTS

TABLES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


def read_lists(path: Path, class_names: Sequence[str]) -> dict[str, list[int]]:
    """Classes of each part from one YAML or JSON file, ``{train: [class, ...], validation: [...], test: [...]}``.

    Raises:
        DataError: It is no such file, or names a class that is not in the folder.
    """
    try:
        text = path.read_text()
        content = json.loads(text) if path.suffix == ".json" else OmegaConf.to_container(OmegaConf.create(text))
    except Exception as error:  # each parser has its own
        raise DataError(
            f"{path} cannot be read ({error}); expected {{train: [...], validation: [...], test: [...]}}."
        ) from None
    if not isinstance(content, dict) or not {"train", "test"} <= set(content) <= set(PARTS):
        raise DataError(
            f"{path}: expected the keys train, validation (may be left out) and test, got {content!r:.200}."
        )
    number = {name: label for label, name in enumerate(class_names)}
    classes = {part: [str(name) for name in content.get(part) or []] for part in PARTS}
    unknown = [name for names in classes.values() for name in names if name not in number]
    if unknown:
        raise DataError(f"{path} names {len(unknown)} classes that the folder does not have, {unknown[0]!r} first.")
    return {part: [number[name] for name in names] for part, names in classes.items()}


def read_tables(folder: Path, files: Sequence[ImageFile]) -> tuple[list[ImageFile], list[str], dict[str, list[str]]]:
    """Images and classes from train.csv, val.csv (may be missing) and test.csv of lines ``filename,label``.

    So miniImageNet is published (Ravi and Larochelle 2017): the labels stand in the tables, the images lie anywhere.

    Args:
        files: Of the folder of images. A filename is a path in it, or in the folder of its class, or the end of
            a path that no other image shares.

    Returns:
        The files that the tables name, the class of each, and the classes of each part.

    Raises:
        DataError: A table is missing or malformed, or names a file that is not there or stands in it twice.
    """
    by_path = {file.path: file for file in files}
    same_name = Counter(file.path[-1] for file in files)
    by_name = {file.path[-1]: file for file in files if same_name[file.path[-1]] == 1}
    found: dict[ImageFile, str] = {}
    classes: dict[str, list[str]] = {part: [] for part in PARTS}
    for part, name in TABLES.items():
        table = folder / name
        if part == "validation" and not table.exists():
            continue
        for filename, label in _rows(table):
            path = Path(filename).parts
            file = by_path.get(path) or by_path.get((label, *path)) or by_name.get(path[-1])
            if file is None:
                raise DataError(f"{table} names {filename!r} of {label!r}, which is not among the {len(files)} images.")
            if file in found:
                raise DataError(f"{table} names {filename!r}, which already stands in a table; an image has one class.")
            found[file] = label
            if not classes[part] or classes[part][-1] != label:
                classes[part].append(label)
    ordered = sorted(found)
    return ordered, [found[file] for file in ordered], {part: sorted(set(names)) for part, names in classes.items()}


def _rows(table: Path) -> list[tuple[str, str]]:
    try:
        with table.open(newline="") as file:
            rows = [(row["filename"], row["label"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{table} cannot be read ({error!r}); expected lines of filename,label under that heading."
        ) from None
    if not rows or not all(filename and label for filename, label in rows):
        raise DataError(f"{table} is empty or has an empty cell; expected lines of filename,label.")
    return rows
