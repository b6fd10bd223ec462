"""Finds images that occur, pixel by pixel, in two parts of a dataset."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.dataset import Images, Note
from ssl_runner.data.sources.source import Source, row_digests
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.errors import DataError

Duplicates = Literal["warn", "drop", "refuse"]

# evaluation data stays complete: of two equal images, the one in the later part is dropped
ORDER = ("test", "validation", "train")


def without_copies(
    source: Source, indices: Mapping[str, Tensor], duplicates: Duplicates
) -> tuple[dict[str, Tensor], tuple[Note, ...]]:
    """The indices of each part, and notes about images that occur in two parts.

    Two images are equal if all their pixels are, after decoding and resizing; of packed ones, if their files are.

    Args:
        source: All images; blank ones are ignored.
        indices: Indices of train, validation and test.
        duplicates: ``warn`` about them, ``drop`` them from the part that is learned from, so that test stays unchanged,
            or ``refuse`` them.

    Raises:
        DataError: There are duplicates, and they are refused.
    """
    if duplicates not in ("warn", "drop", "refuse"):
        raise DataError(f"dataset.duplicates={duplicates!r}: expected 'warn', 'drop' or 'refuse'.")
    if source.images.stride(0) == 0 or not len(source.images):
        return dict(indices), ()
    digests = source.digests
    if digests is None:
        assert isinstance(source.images, Tensor), "stored images come with digests"
        digests = row_digests(source.images.numpy())
    twins = _twins(digests, indices)
    if not twins:
        return dict(indices), ()
    counts = {f"{first} in {part}": found.n for (first, part), found in twins.items()}
    text = "; ".join(_described(source, indices, *pair, found) for pair, found in twins.items())
    if duplicates == "refuse":
        raise DataError(f"{text}; dataset.duplicates=drop removes them from the part that is learned from.")
    if duplicates == "warn":
        doubt = any(first == "test" for first, _ in twins)
        text = f"{text}; dataset.duplicates=drop removes them from the part that is learned from"
        return dict(indices), (Note("duplicates", counts, text, doubt),)
    left = dict(indices)
    for part in ORDER[1:]:
        copies = {place for (_, learner), found in twins.items() if learner == part for _, place in found.pairs}
        keep = torch.tensor([place not in copies for place in range(len(indices[part]))], dtype=torch.bool)
        left[part] = indices[part][keep]
    dropped = {part: len(indices[part]) - len(left[part]) for part in ORDER[1:]}
    numbers = " and ".join(f"{n:,} of {part}" for part, n in dropped.items() if n)
    return left, (Note("dropped_duplicates", dropped, f"dropped {numbers}: {text}"),)


def all_alike(images: Images) -> bool:
    """Whether there are at least two images, uint8 (N, C, H, W), all equal. It stops at the first that differs."""
    if isinstance(images, StoredImages):
        return images.all_alike()
    if len(images) < 2 or images.stride(0) == 0:
        return False
    return all(bool((chunk == images[0]).all()) for chunk in images.split(256))


class _Twins(NamedTuple):
    """The images that two parts share: indices in the first and the second part, and their number in the first."""

    pairs: list[tuple[int, int]]
    n: int


def _twins(rows: np.ndarray, indices: Mapping[str, Tensor]) -> dict[tuple[str, str], _Twins]:
    """Shared images by the names of two parts; each image of the second occurs once, with an equal one of the first."""
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


def _described(source: Source, indices: Mapping[str, Tensor], first: str, part: str, found: _Twins) -> str:
    twin, place = found.pairs[0]
    example = f"{_name(source, indices, part, place)} is {_name(source, indices, first, twin)}"
    return f"{found.n:,} of {len(indices[first]):,} {first} images occur in {part} too ({example})"


def _name(source: Source, indices: Mapping[str, Tensor], part: str, place: int) -> str:
    if source.file_names is not None:
        return source.file_names[int(indices[part][place])]
    return f"{part}[{place}]"
