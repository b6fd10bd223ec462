"""Several datasets as one, where each task uses one of them."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.data.dataset import Dataset, Splits, held
from ssl_runner.data.splits.splitting import check_split_seed, gathered
from ssl_runner.errors import DataError
from ssl_runner.runtime import randomness


def mixture(
    datasets: Mapping[str, Splits | None],
    held_out: int,
    mix: bool,
    split_seed: int,
    size: int | None,
    channels: int | None,
    weights: Mapping[str, float] | None = None,
) -> Splits:
    """The classes of several datasets, each a domain: a task has classes of only one of them (`Dataset.class_domains`).

    Of a source that is split by images, train has the train images without ``held_out`` of its classes, and test has
    the test images of only these classes. Of one that is split by classes, train has its train classes, and test its
    test classes. There is no validation part, so no checkpoint is selected and the last step is used. What a source
    keeps for validation is not used.

    Args:
        datasets: Sources by name, with labels and the same shape; a null is left out.
        held_out: Number of classes of each source split by images that are tested but not trained on. With 0, all
            classes are tested, and all of them were seen in training.
        mix: Whether to ignore the domains, so that a task may have classes of several datasets.
        split_seed: Seed of the held-out classes. Those of a source do not depend on the other sources.
        size: Height and width that the sources' nodes refer to; None uses those of the sources.
        channels: Same for the channels.
        weights: How often training tasks use a source, relative to the others: with 7 beside three times 1, seven of
            ten tasks. Each is above 0, and 1 for a source that has none. None: all sources equally often.

    Raises:
        DataError: There is no source, or a source or a weight does not fit.
    """
    check_split_seed(split_seed)
    sources = {name: splits for name, splits in datasets.items() if splits is not None}
    if not sources:
        raise DataError("dataset.datasets is empty, expected at least one dataset; set dataset=mnist for a single one.")
    for name, splits in sources.items():
        _check(name, splits, held_out)
    _check_shapes(sources, size, channels)
    _check_weights(weights, datasets, mix)
    by = _separated_by(sources, held_out)
    trained, tested = {}, {}
    for name, splits in sources.items():
        trained[name], tested[name] = _classes(name, splits, held_out, split_seed)
    train = _joined({name: splits.train for name, splits in sources.items()}, trained, mix, "train")
    test = _joined({name: splits.test for name, splits in sources.items()}, tested, mix, "test")
    notes = [
        note._replace(key=f"{name}/{note.key}", text=f"{name}: {note.text}")
        for name, splits in sources.items()
        for note in splits.notes
        if note.key != "validation"  # a mixture never has validation images
    ]
    return Splits(train if weights is None else _weighted(train, weights), None, test, by, tuple(notes))


def _classes(name: str, splits: Splits, held_out: int, split_seed: int) -> tuple[list[int], list[int]]:
    """The classes of a source that are trained on, and those that are tested, as labels in each of the two parts."""
    if splits.by == "classes":
        return list(range(splits.train.n_classes)), list(range(splits.test.n_classes))
    order = randomness.permutation(split_seed, f"mixture/{name}", 0, splits.train.n_classes).tolist()
    kept = sorted(order[held_out:])
    return kept, sorted(order[:held_out]) if held_out else kept


def _weighted(train: Dataset, weights: Mapping[str, float]) -> Dataset:
    """The training part with the share of the tasks that each domain gets."""
    given = [float(weights.get(name, 1)) for name in train.domains]
    shares = tuple(weight / sum(given) for weight in given)
    fingerprint = hashlib.sha256(repr((train.fingerprint, shares)).encode()).hexdigest()[:16]
    return replace(train, fingerprint=fingerprint, domain_shares=shares)


def _joined(parts: Mapping[str, Dataset], classes: Mapping[str, list[int]], mix: bool, split: str) -> Dataset:
    """The images of these classes, which are numbered source by source."""
    images, labels, names, domains = [], [], [], []
    for name, part in parts.items():
        assert part.labels is not None, "checked"
        number = torch.full((part.n_classes,), -1)
        number[classes[name]] = torch.arange(len(classes[name])) + len(names)
        renumbered = number[part.labels]
        own = held(part.images, f"{name}, a part of a mixture,")
        images.append(gathered(own, (renumbered >= 0).nonzero().squeeze(1)))
        labels.append(renumbered[renumbered >= 0])
        names += [f"{name}/{part.class_names[label]}" for label in classes[name]]
        domains += [name] * len(classes[name])
    content = [(name, part.fingerprint, classes[name]) for name, part in parts.items()]
    return Dataset(
        name=f"{'+'.join(parts)}/{split}",
        images=_concatenated(images),
        labels=torch.cat(labels),
        class_names=tuple(names),
        class_groups=None,
        fingerprint=hashlib.sha256(repr((content, mix)).encode()).hexdigest()[:16],
        class_domains=None if mix else tuple(domains),
        seen=tuple(dict.fromkeys(name for part in parts.values() for name in (part.source, *part.seen))),
    )


def _concatenated(images: list[Tensor]) -> Tensor:
    if any(part.stride(0) == 0 for part in images):  # blank images without memory, and so is the result
        return images[0].new_zeros(1).expand(sum(map(len, images)), *images[0].shape[1:])
    return torch.cat(images)


def _check(name: str, splits: Splits, held_out: int) -> None:
    """Raises DataError if a source has no labels, or too few classes to hold some of them out."""
    path, n_classes = f"dataset.datasets.{name}", splits.train.n_classes
    if splits.train.labels is None or splits.test.labels is None:
        raise DataError(f"{path} has no labels, but tasks are made of classes; remove it with {path}=null.")
    if splits.by == "images" and not 0 <= held_out < n_classes:
        raise DataError(
            f"dataset.held_out={held_out}: {name} has {n_classes} classes, and at least one must be trained on; give a "
            f"number in [0, {n_classes - 1}]."
        )


def _separated_by(sources: Mapping[str, Splits], held_out: int) -> Literal["images", "classes"]:
    """What separates train and test. Raises DataError if it is not the same for all sources."""
    by_images = [name for name, splits in sources.items() if splits.by == "images"]
    if held_out or not by_images:
        return "classes"
    if len(by_images) == len(sources):
        return "images"
    raise DataError(
        f"dataset.held_out=0: all classes of {by_images[0]} are trained on, but other sources are split by classes, so "
        f"test would have seen and unseen classes; give dataset.held_out=2, or dataset.datasets.{by_images[0]}"
        ".split=classes."
    )


def _check_weights(weights: Mapping[str, float] | None, datasets: Mapping[str, Splits | None], mix: bool) -> None:
    """Raises DataError for a weight of no source, one that is not above 0, or any if domains are ignored."""
    if weights is None:
        return
    if mix:
        raise DataError(
            "dataset.weights says how often a task uses each source, but with dataset.mix=true a task has classes of "
            "several; set dataset.weights=null or dataset.mix=false."
        )
    for name, weight in weights.items():
        if name not in datasets:
            hint = did_you_mean(name, datasets) or f"; expected one of {', '.join(datasets)}"
            raise DataError(f"dataset.weights.{name}: there is no such dataset{hint}.")
        if not 0 < weight < math.inf:
            raise DataError(
                f"dataset.weights.{name}={weight}; give a number above 0, or leave the dataset out with "
                f"dataset.datasets.{name}=null."
            )


def _check_shapes(sources: Mapping[str, Splits], size: int | None, channels: int | None) -> None:
    """Raises DataError if the shape of a source differs from ``size`` and ``channels``, or from the first source's."""
    shapes = {name: tuple(splits.train.images.shape[1:]) for name, splits in sources.items()}
    first = next(iter(shapes.values()))
    expected = (channels or first[0], size or first[1], size or first[2])
    for name, shape in shapes.items():
        if shape != expected:
            got, wanted = (" x ".join(map(str, each)) for each in (shape, expected))
            path = f"dataset.datasets.{name}"
            raise DataError(
                f"{path} has images of {got}, expected {wanted} in every dataset (dataset.size={size}, "
                f"dataset.channels={channels}); set {path}.size={expected[1]} {path}.channels={expected[0]}."
            )
