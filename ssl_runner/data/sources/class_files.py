"""Files that list the classes for training and the held-out classes."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import yaml

from ssl_runner.data.sources.source import PARTS
from ssl_runner.errors import DataError, printable
from ssl_runner.images.files import ImageFile

TABLES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
COLUMNS = ("filename", "label")


def read_lists(path: Path, class_names: Sequence[str]) -> dict[str, list[str]]:
    """Classes of each part from a YAML or JSON file, ``{train: [class, ...], validation: [...], test: [...]}``.

    Names are used as written: ``no``, ``01`` and ``1e3`` are strings here, not booleans or numbers.

    Raises:
        DataError: It is not such a file, or it names a class that the folder does not have.
    """
    try:
        text = read_text(path)
        # the YAML loader that keeps all values as strings
        content = (
            json.loads(text, parse_int=str, parse_float=str)
            if path.suffix == ".json"
            else yaml.load(text, yaml.BaseLoader)
        )
    except Exception as error:  # each parser has its own exceptions
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be read ({reason}); expected {{train: [...], validation: [...], test: [...]}}."
        ) from None
    if not isinstance(content, dict) or not {"train", "test"} <= set(content) <= set(PARTS):
        raise DataError(f"{path}: expected the keys train, validation (optional) and test, got {content!r:.200}.")
    classes = {part: _names(path, part, content.get(part) or []) for part in PARTS}
    present = set(class_names)
    unknown = [name for names in classes.values() for name in names if name not in present]
    if unknown:
        raise DataError(f"{path} names {len(unknown)} classes that the folder does not have, {unknown[0]!r} first.")
    return classes


def _names(path: Path, part: str, names: object) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: {part} is {names!r:.100}, expected a list of class names, [cat, dog].")
    return names


def read_tables(folder: Path, files: Sequence[ImageFile]) -> tuple[list[ImageFile], list[str], dict[str, list[str]]]:
    """Images and classes from train.csv, val.csv (optional) and test.csv with lines ``filename,label``.

    This is how miniImageNet is published (Ravi and Larochelle 2017): the tables have the labels, and the images can be
    anywhere. Tables written by spreadsheets can be read too: semicolons or tabs, a byte-order mark, Windows paths.

    Args:
        files: The files of the image folder. A filename is a path in that folder, or in the folder of its class, or the
            end of a path that no other image shares.

    Returns:
        The files that the tables name, the class of each, and the classes of each part.

    Raises:
        DataError: A table is missing or malformed, or names a file that does not exist or is listed twice.
    """
    shown = {file: tuple(map(printable, file.path)) for file in files}
    by_path = {path: file for file, path in shown.items()}
    same_name = Counter(path[-1] for path in by_path)
    by_name = {path[-1]: file for path, file in by_path.items() if same_name[path[-1]] == 1}
    found: dict[ImageFile, str] = {}
    classes: dict[str, list[str]] = {part: [] for part in PARTS}
    for part, name in TABLES.items():
        table = folder / name
        if part == "validation" and not table.exists():
            continue
        for filename, label in read_rows(table, COLUMNS):
            # a backslash is an ordinary character here, but a separator on Windows
            paths = [tuple(part for part in Path(filename).parts if part != "."), PureWindowsPath(filename).parts]
            ways = (
                way for path in paths for way in (by_path.get(path), by_path.get((label, *path)), by_name.get(path[-1]))
            )
            file = next((way for way in ways if way is not None), None)
            if file is None:
                raise DataError(f"{table} names {filename!r} of {label!r}, which is not among the {len(files)} images.")
            if file in found:
                raise DataError(f"{table} names {filename!r}, which is already in a table; an image has one class.")
            found[file] = label
            if not classes[part] or classes[part][-1] != label:
                classes[part].append(label)
    ordered = sorted(found)
    return ordered, [found[file] for file in ordered], {part: sorted(set(names)) for part, names in classes.items()}


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    Raises:
        UnicodeDecodeError: It has another encoding.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return content.decode(encoding)


def read_rows(table: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The cells of these columns, row by row, from a table with commas, semicolons or tabs and a heading.

    Args:
        columns: Names in the heading, in lower case, whatever their case in the table. No cell of theirs may be empty.
        optional: Further columns, whose cells are empty if the table lacks them.

    Raises:
        DataError: The table cannot be read, lacks a column, or has an empty cell.
    """
    form = f"expected lines of {','.join(columns)} (or {';'.join(columns)}) under that heading"
    try:
        text = read_text(table)
        heading = text.partition("\n")[0]
        delimiter = max(",;\t", key=heading.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
        if not set(columns) <= names.keys():
            raise DataError(f"{table} begins with {heading.strip()!r:.100}; {form}.")
        wanted = [names.get(column) for column in (*columns, *optional)]
        rows = [tuple(_cell(row, name) for name in wanted) for row in reader if any(row.values())]
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror}); {form}.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not encoded in UTF-8 ({error.reason}); save it as UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{table} cannot be read ({error}); {form}.") from None
    if not rows or not all(all(row[: len(columns)]) for row in rows):
        raise DataError(f"{table} is empty or has an empty cell; {form}.")
    return rows


def _cell(row: dict[str, str | None], name: str | None) -> str:
    """A cell without the spaces around it; empty for a column that the table or the row lacks."""
    return "" if name is None else (row[name] or "").strip()
