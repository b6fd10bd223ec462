"""Splits a dataset into train, validation and test, by image or by class."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ssl_runner.data.dataset import Dataset, Images, Note, Splits
from ssl_runner.data.sources.source import PARTS, Source
from ssl_runner.data.splits.copies import Duplicates, all_alike, without_copies
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.errors import DataError
from ssl_runner.runtime import randomness


def split_source(
    source: Source,
    split: Literal["images", "classes"],
    validation: float,
    class_counts: Sequence[int] | None,
    split_seed: int,
    test: float = 0,
    duplicates: Duplicates = "warn",
) -> Splits:
    """Splits a source as its config says.

    By ``images``: a published test part stays the test part, and a published validation part the validation part. A
    missing part is a stratified draw that leaves each class at least one training image. By ``classes``: all images of
    a class, from every published part, go where the class goes. An image of the official test part may therefore be
    trained on, and the accuracy on held-out classes is not one on the official test part.

    Args:
        split: ``images`` or ``classes``.
        validation: Number of images, or their share (below 1) of all images outside a published test part; 0 for none.
        class_counts: Numbers of classes of train, validation and test; None for shares of 64, 16 and 20%.
        split_seed: Seed of the draws, independent of the run's seed.
        test: Like ``validation``; used if no test part is published.
        duplicates: What to do with images that occur in two parts, see `without_copies`.

    Raises:
        DataError: The source cannot be split like this.
    """
    check_split_seed(split_seed)
    if split == "images":
        return split_by_images(source, validation, test, split_seed, duplicates)
    if split == "classes":
        return split_by_classes(source, draw_classes(source, class_counts, split_seed), duplicates)
    raise DataError(f"dataset.split={split!r}: expected 'images' or 'classes'.")


def check_split_seed(split_seed: int) -> None:
    """Raises DataError if the seed is out of range."""
    randomness.check_seed(split_seed, "dataset.split_seed", DataError)


def split_by_images(
    source: Source, validation: float, test: float, split_seed: int, duplicates: Duplicates = "warn"
) -> Splits:
    """Splits with the same classes in every part; see `split_source`."""
    indices = dict(source.official) or {"train": torch.arange(len(source.images))}
    remaining = indices["train"]  # what shares refer to
    for part, amount in (("test", test), ("validation", validation)):
        if part in indices:
            continue
        n = _count(source, part, amount, len(remaining))
        if n and n >= len(indices["train"]):
            raise DataError(
                f"dataset.{part}={amount} of {source.name} leaves no train images after the other parts; lower it."
            )
        drawn = _stratified(source, indices["train"], n, split_seed, f"split/{part}")
        indices[part] = indices["train"][drawn]
        indices["train"] = indices["train"][~drawn]
    if not len(indices["test"]) or not len(indices["train"]):
        single = "" if source.labels is None or int(source.labels.bincount().max()) > 1 else ", one per class"
        raise DataError(
            f"{source.name} split by images has no train or no test images: it has {len(source.images):,} images"
            f"{single}, and each class keeps one in train; set dataset.test between 0 and 1, or give more images."
        )
    return _splits(source, indices, dict.fromkeys(PARTS), "images", duplicates)


def draw_classes(source: Source, class_counts: Sequence[int] | None, split_seed: int) -> dict[str, list[int]]:
    """Draws the classes of each part. Test is drawn first, so it does not depend on how the others share the rest."""
    n = len(source.class_names)
    if class_counts is None:
        n_validation, n_test = round(0.16 * n), max(1, round(0.2 * n))
        class_counts = [n - n_validation - n_test, n_validation, n_test]
    counts = list(class_counts)
    if len(counts) != 3 or min(counts) < 0 or counts[0] < 1 or counts[2] < 1 or sum(counts) > n:
        raise DataError(
            f"dataset.class_counts={counts} of {source.name}: expected counts of train, validation and test, train and "
            f"test at least 1, in total at most its {n} classes."
        )
    order = randomness.permutation(split_seed, "split/classes", 0, n).tolist()
    bounds = {"test": (0, counts[2]), "validation": (counts[2], counts[2] + counts[1])}
    bounds["train"] = (counts[2] + counts[1], sum(counts))
    return {part: sorted(order[start:stop]) for part, (start, stop) in bounds.items()}


def split_by_classes(source: Source, classes: Mapping[str, Sequence[int]], duplicates: Duplicates = "warn") -> Splits:
    """Splits into disjoint classes, with labels from 0 in each part, in the order of ``classes``.

    Raises:
        DataError: There are no labels, or a class occurs in two parts.
    """
    if source.labels is None:
        raise DataError(f"{source.name} has no labels: it cannot be split by classes; set dataset.split=images.")
    listed = [label for part in PARTS for label in classes[part]]
    if len(listed) != len(set(listed)):
        twice = next(label for label in listed if listed.count(label) > 1)
        raise DataError(f"class {source.class_names[twice]!r} of {source.name} occurs twice in its split of classes.")
    indices = {}
    for part in PARTS:
        wanted = torch.zeros(len(source.class_names), dtype=torch.bool)
        wanted[list(classes[part])] = True
        indices[part] = wanted[source.labels].nonzero().squeeze(1)
    return _splits(source, indices, classes, "classes", duplicates)


def _count(source: Source, part: str, amount: float, n: int) -> int:
    count = round(amount * n) if amount < 1 else int(amount)
    if not 0 <= count < n or (amount >= 1 and count != amount):
        raise DataError(
            f"dataset.{part}={amount} of {source.name}: expected a share in [0, 1) or a count below its {n} images."
        )
    return count


def _stratified(source: Source, candidates: Tensor, n: int, split_seed: int, stream: str) -> Tensor:
    """A mask over candidates that selects n of them, with every class as close to its share as whole images allow.

    At least one image of each class remains, so that every evaluated class can be learned. Classes with one image then
    give none and others give more; if all have given what they can, fewer than n are selected.
    """
    labels = torch.zeros_like(candidates) if source.labels is None else source.labels[candidates]
    sizes = labels.bincount()
    quotas = n * sizes.double() / max(1, len(candidates))
    most = (sizes - 1).clamp(min=0)
    takes = quotas.floor().long().minimum(most)
    while (missing := n - int(takes.sum())) and (takes < most).any():
        # largest remainders, so that the parts sum to n; one pass, unless classes have too few images to give one
        order = (quotas - takes).argsort(descending=True, stable=True)
        takes[order[(takes < most)[order]][:missing]] += 1
    order = torch.from_numpy(randomness.permutation(split_seed, stream, 0, len(candidates)))
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within each
    rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[labels[order]]
    mask = torch.zeros(len(candidates), dtype=torch.bool)
    mask[order[rank < takes[labels[order]]]] = True
    return mask


def _splits(
    source: Source,
    indices: Mapping[str, Tensor],
    classes: Mapping[str, Sequence[int] | None],
    by: Literal["images", "classes"],
    duplicates: Duplicates,
) -> Splits:
    left, notes = without_copies(source, indices, duplicates)
    if not len(left["train"]):
        raise DataError(
            f"every image of {source.name}/train occurs in test or validation too, so none is left to train on."
        )
    parts = {part: _part(source, part, left[part], classes[part]) for part in PARTS}
    if all_alike(parts["train"].images):
        n, hint = len(parts["train"]), "so there is nothing to learn; check how the files are read"
        notes = (Note("all_alike", n, f"all {n:,} images of {source.name}/train are the same, {hint}", True), *notes)
    validation = parts["validation"] if len(parts["validation"]) else None
    if validation is None and by == "images":
        effect = f"all {len(parts['train']):,} training images are learned from, and no checkpoint can be selected"
        notes = (*notes, Note("validation", "none", f"no validation images: {effect}"))
    return Splits(parts["train"], validation, parts["test"], by, (*source.notes, *notes), source.decoding)


def gathered(images: Images, indices: Tensor) -> Images:
    """The images at indices (M,). Those of a store are not decoded."""
    if isinstance(images, StoredImages):
        return images.at(indices)
    if images.stride(0) == 0:  # blank images without memory: all are equal
        return images[: len(indices)]
    return images[indices]


def _part(source: Source, part: str, indices: Tensor, classes: Sequence[int] | None) -> Dataset:
    """The images at indices. If classes are given, their labels count from 0."""
    labels = None if source.labels is None else source.labels[indices]
    names, groups = source.class_names, source.class_groups
    if classes is not None and labels is not None:
        local = torch.full((len(names),), -1)
        local[list(classes)] = torch.arange(len(classes))
        labels = local[labels]
        names = tuple(names[label] for label in classes)
        groups = None if groups is None else tuple(groups[label] for label in classes)
    consecutive = len(indices) > 0 and int(indices[-1] - indices[0]) + 1 == len(indices)
    # a slice stays memory-mapped; anything else is copied into memory
    if consecutive and isinstance(source.images, Tensor):
        images = source.images[int(indices[0]) : int(indices[-1]) + 1]
    else:
        images = gathered(source.images, indices)
    digest = hashlib.sha256(repr((source.content, names, groups)).encode())
    digest.update(indices.numpy().tobytes() + (b"" if labels is None else labels.numpy().tobytes()))
    return Dataset(f"{source.name}/{part}", images, labels, names, groups, digest.hexdigest()[:16])
