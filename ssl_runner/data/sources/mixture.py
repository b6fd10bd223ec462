"""Several datasets as one, where each task uses one of them."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

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
) -> Splits:
    """The classes of several datasets, each a domain: a task has classes of only one of them (`Dataset.class_domains`).

    Train has the train images of the sources without ``held_out`` classes of each; test has the test images of only
    these classes. There is no validation part, so no checkpoint is selected and the last step is used. What a source
    keeps for validation is not used.

    Args:
        datasets: Sources by name, split by images, with labels and the same shape; a null is left out.
        held_out: Number of classes of each source that are tested but not trained on. With 0, all classes are tested,
            and all of them were seen in training.
        mix: Whether to ignore the domains, so that a task may have classes of several datasets.
        split_seed: Seed of the held-out classes. Those of a source do not depend on the other sources.
        size: Height and width that the sources' nodes refer to; None uses those of the sources.
        channels: Same for the channels.

    Raises:
        DataError: There is no source, or a source does not fit.
    """
    check_split_seed(split_seed)
    sources = {name: splits for name, splits in datasets.items() if splits is not None}
    if not sources:
        raise DataError("dataset.datasets is empty, expected at least one dataset; set dataset=mnist for a single one.")
    for name, splits in sources.items():
        _check(name, splits, held_out)
    _check_shapes(sources, size, channels)
    held, kept = {}, {}
    for name, splits in sources.items():
        order = randomness.permutation(split_seed, f"mixture/{name}", 0, splits.train.n_classes).tolist()
        held[name], kept[name] = sorted(order[:held_out]), sorted(order[held_out:])
    train = _joined({name: splits.train for name, splits in sources.items()}, kept, mix, "train")
    test = _joined({name: splits.test for name, splits in sources.items()}, held if held_out else kept, mix, "test")
    notes = [
        note._replace(key=f"{name}/{note.key}", text=f"{name}: {note.text}")
        for name, splits in sources.items()
        for note in splits.notes
        if note.key != "validation"  # a mixture never has validation images
    ]
    return Splits(train, None, test, "classes" if held_out else "images", tuple(notes))


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
    """Raises DataError if a source has no labels or too few classes, or is not split by images."""
    path, n_classes = f"dataset.datasets.{name}", splits.train.n_classes
    if splits.train.labels is None or splits.test.labels is None:
        raise DataError(f"{path} has no labels, but tasks are made of classes; remove it with {path}=null.")
    if splits.by != "images":
        raise DataError(f"{path} is split by {splits.by}, expected by images; set {path}.split=images.")
    if not 0 <= held_out < n_classes:
        raise DataError(
            f"dataset.held_out={held_out}: {name} has {n_classes} classes, and at least one must be trained on; give a "
            f"number in [0, {n_classes - 1}]."
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
