"""Published splits by class, and other lists of classes, which are text files in the folder ``lists``."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from ssl_runner.data.dataset import Note, Splits
from ssl_runner.data.sources.source import PARTS, Source
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import check_split_seed, gathered, split_by_classes, split_source
from ssl_runner.errors import DataError

LISTS = Path(__file__).with_name("lists")

ClassSplit = Literal["published", "random"]


class Line(NamedTuple):
    """A line of a list: a class, a word about it (its part, or the kind it shows), and what else is said about it."""

    name: str
    word: str
    rest: str


def read_list(name: str) -> list[Line]:
    """The lines of lists/NAME.txt in order, without its comments."""
    lines = (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [Line(*[*line.split(maxsplit=2), ""][:3]) for line in lines if line and not line.startswith("#")]


def listed_parts(name: str) -> dict[str, list[str]]:
    """The classes of train, validation and test from lists/NAME.txt."""
    lines = read_list(name)
    return {part: [line.name for line in lines if line.word == part] for part in PARTS}


def split_listed(
    source: Source,
    parts: Mapping[str, Sequence[str]],
    split: Literal["images", "classes"],
    class_split: str,
    validation: float,
    class_counts: Sequence[int] | None,
    split_seed: int,
    test: float = 0,
    duplicates: Duplicates = "warn",
    listed: str = "published",
) -> Splits:
    """Splits a source by classes as its list says, or else as `split_source` does.

    Args:
        parts: Classes of train, validation and test, by name.
        class_split: ``random`` draws ``class_counts`` classes; the name of the list uses the list.
        listed: The name of the list.

    Raises:
        DataError: The source lacks a class of the list, or cannot be split like this.
    """
    if class_split not in (listed, "random"):
        raise DataError(f"dataset.class_split={class_split!r}: expected {listed!r} or 'random'.")
    check_split_seed(split_seed)  # a list does not use it
    if split != "classes" or class_split == "random":
        return split_source(source, split, validation, class_counts, split_seed, test, duplicates)
    number = {name: label for label, name in enumerate(source.class_names)}
    lacking = [name for part in PARTS for name in parts[part] if name not in number]
    if lacking:
        n = sum(len(names) for names in parts.values())
        raise DataError(
            f"{source.name} is not complete: of the {n} classes of dataset.class_split={listed}, {len(lacking)} are "
            f"missing, first {lacking[0]!r}; unpack it again, or set dataset.class_split=random."
        )
    return split_by_classes(source, {part: sorted(number[name] for name in parts[part]) for part in PARTS}, duplicates)


def without_classes(source: Source, names: Sequence[str], why: str) -> Source:
    """The source without the classes of these names, with a note. Names that it does not have are passed over.

    Args:
        why: The name of the list, for the note.
    """
    left_out = set(names) & set(source.class_names)
    kept = [label for label, name in enumerate(source.class_names) if name not in left_out]
    if not left_out or source.labels is None:
        return source
    number = torch.full((len(source.class_names),), -1)
    number[kept] = torch.arange(len(kept))
    rows = (number[source.labels] >= 0).nonzero().squeeze(1)
    place = torch.full((len(source.labels),), -1)
    place[rows] = torch.arange(len(rows))
    text = f"{len(left_out)} classes are left out (dataset.without={why}): {', '.join(sorted(left_out))}"
    return replace(
        source,
        images=gathered(source.images, rows),
        labels=number[source.labels[rows]],
        class_names=tuple(source.class_names[label] for label in kept),
        class_groups=None if source.class_groups is None else tuple(source.class_groups[label] for label in kept),
        content=f"{source.content} without {why}",
        official={part: place[own][place[own] >= 0] for part, own in source.official.items()},
        notes=(*source.notes, Note("left_out_classes", sorted(left_out), text)),
        file_names=None if source.file_names is None else [source.file_names[row] for row in rows.tolist()],
        digests=None if source.digests is None else source.digests[rows.numpy()],
    )


def made_from(splits: Splits, *sources: str) -> Splits:
    """The splits with the names of the datasets that their images are also part of (`Dataset.seen`)."""

    def named(part):
        return None if part is None else replace(part, seen=(part.source, *sources))

    return replace(splits, train=named(splits.train), validation=named(splits.validation), test=named(splits.test))
