"""The same picture in two parts of a dataset, pixel by pixel."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.dataset import Note
from ssl_runner.data.sources.source import Source, row_digests
from ssl_runner.errors import DataError

Duplicates = Literal["warn", "drop", "refuse"]

# what is judged stays whole: of two equal images, that of the later part goes
ORDER = ("test", "validation", "train")


def without_copies(
    source: Source, indices: Mapping[str, Tensor], duplicates: Duplicates
) -> tuple[dict[str, Tensor], tuple[Note, ...]]:
    """The indices of each part, and what was found: images that stand in two parts.

    Two images are the same where all their pixels are, as they were decoded and resized.

    Args:
        source: All images; blank ones are not looked at.
        indices: Of train, validation and test.
        duplicates: ``warn`` of them; ``drop`` them from the part that learns, so that test stays as it was; ``refuse``.

    Raises:
        DataError: There are some, and they are refused.
    """
    if duplicates not in ("warn", "drop", "refuse"):
        raise DataError(f"dataset.duplicates={duplicates!r}: expected 'warn', 'drop' or 'refuse'.")
    if source.images.stride(0) == 0 or not len(source.images):
        return dict(indices), ()
    digests = row_digests(source.images.numpy()) if source.digests is None else source.digests
    twins = _twins(digests, indices)
    if not twins:
        return dict(indices), ()
    counts = {f"{first} in {part}": found.n for (first, part), found in twins.items()}
    text = "; ".join(_told(source, indices, *pair, found) for pair, found in twins.items())
    if duplicates == "refuse":
        raise DataError(f"{text}; take them out of the part that learns with dataset.duplicates=drop.")
    if duplicates == "warn":
        doubt = any(first == "test" for first, _ in twins)
        text = f"{text}; dataset.duplicates=drop takes them out of the part that learns"
        return dict(indices), (Note("duplicates", counts, text, doubt),)
    left = dict(indices)
    for part in ORDER[1:]:
        gone = {place for (_, learner), found in twins.items() if learner == part for _, place in found.pairs}
        keep = torch.tensor([place not in gone for place in range(len(indices[part]))], dtype=torch.bool)
        left[part] = indices[part][keep]
    dropped = {part: len(indices[part]) - len(left[part]) for part in ORDER[1:]}
    said = " and ".join(f"{n:,} of {part}" for part, n in dropped.items() if n)
    return left, (Note("dropped_duplicates", dropped, f"dropped {said}: {text}"),)


def all_alike(images: Tensor) -> bool:
    """Whether two images or more, uint8 (N, C, H, W), are all the same; of others, the first that differs ends it."""
    if len(images) < 2 or images.stride(0) == 0:
        return False
    return all(bool((chunk == images[0]).all()) for chunk in images.split(256))


class _Twins(NamedTuple):
    """What two parts have in common: places in the first and the second, and how many of the first."""

    pairs: list[tuple[int, int]]
    n: int


def _twins(rows: np.ndarray, indices: Mapping[str, Tensor]) -> dict[tuple[str, str], _Twins]:
    """By the names of two parts that share images; each of the second stands there once, beside a twin of it."""
    digests = {part: [row.tobytes() for row in rows[indices[part].numpy()]] for part in ORDER}
    found = {}
    for number, part in enumerate(ORDER):
        for first in ORDER[:number]:
            places = {digest: place for place, digest in reversed(list(enumerate(digests[first])))}
            pairs = ((places.get(digest), place) for place, digest in enumerate(digests[part]))
            shared = [(twin, place) for twin, place in pairs if twin is not None]
            if shared:
                there = set(digests[part])
                found[first, part] = _Twins(shared, sum(digest in there for digest in digests[first]))
    return found


def _told(source: Source, indices: Mapping[str, Tensor], first: str, part: str, found: _Twins) -> str:
    twin, place = found.pairs[0]
    example = f"{_name(source, indices, part, place)} is {_name(source, indices, first, twin)}"
    return f"{found.n:,} of {len(indices[first]):,} {first} images stand in {part} too ({example})"


def _name(source: Source, indices: Mapping[str, Tensor], part: str, place: int) -> str:
    if source.file_names is not None:
        return source.file_names[int(indices[part][place])]
    return f"{part}[{place}]"
