"""Several datasets as one, of which a task sees one at a time."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_runner.data.dataset import Dataset, Splits
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
    """The classes of several datasets, each a domain: a task has classes of one of them (`Dataset.class_domains`).

    Train has the sources' train images without ``held_out`` classes of each, test their test images of these classes
    alone. There is no validation, so nothing is selected and the last step counts; what a source keeps for validation
    stays unused.

    Args:
        datasets: Sources by name, split by images, with labels and of one shape; a null is left out.
        held_out: Classes of each source that are not trained on, but tested; 0 tests all, which were then seen.
        mix: Forget the domains: a task may have classes of several datasets.
        split_seed: Of the classes held out; which of a source does not depend on the other sources.
        size: Height and width that the sources' nodes point at; None takes what they have.
        channels: Likewise.

    Raises:
        DataError: There is no source, or one does not fit.
    """
    check_split_seed(split_seed)
    sources = {name: splits for name, splits in datasets.items() if splits is not None}
    if not sources:
        raise DataError("dataset.datasets names no dataset: expected at least one; set dataset=mnist for a single one.")
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
        if note.key != "validation"  # here there is none of any source
    ]
    return Splits(train, None, test, "classes" if held_out else "images", tuple(notes))


def _joined(parts: Mapping[str, Dataset], classes: Mapping[str, list[int]], mix: bool, split: str) -> Dataset:
    """The images of these classes, which are numbered source by source."""
    images, labels, names, domains = [], [], [], []
    for name, part in parts.items():
        assert part.labels is not None, "checked"
        number = torch.full((part.n_classes,), -1)
        number[classes[name]] = torch.arange(len(classes[name])) + len(names)
        found = number[part.labels]
        images.append(gathered(part.images, (found >= 0).nonzero().squeeze(1)))
        labels.append(found[found >= 0])
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
    if any(part.stride(0) == 0 for part in images):  # blank ones, in no memory: so is the whole
        return images[0].new_zeros(1).expand(sum(map(len, images)), *images[0].shape[1:])
    return torch.cat(images)


def _check(name: str, splits: Splits, held_out: int) -> None:
    """Raises DataError for a source that has no labels, too few classes, or other classes in test than in train."""
    path, n_classes = f"dataset.datasets.{name}", splits.train.n_classes
    if splits.train.labels is None or splits.test.labels is None:
        raise DataError(f"{path} has no labels, but tasks are made of classes; take it out: {path}=null.")
    if splits.by != "images":
        raise DataError(f"{path} is split by {splits.by}, expected by images; set {path}.split=images.")
    if not 0 <= held_out < n_classes:
        raise DataError(
            f"dataset.held_out={held_out}: {name} has {n_classes} classes, of which at least one is trained on; give a "
            f"number in [0, {n_classes - 1}]."
        )


def _check_shapes(sources: Mapping[str, Splits], size: int | None, channels: int | None) -> None:
    """Raises DataError for a source of another shape than ``size`` and ``channels`` say, or the first source has."""
    shapes = {name: tuple(splits.train.images.shape[1:]) for name, splits in sources.items()}
    first = next(iter(shapes.values()))
    expected = (channels or first[0], size or first[1], size or first[2])
    for name, shape in shapes.items():
        if shape != expected:
            got, wanted = (" x ".join(map(str, each)) for each in (shape, expected))
            path = f"dataset.datasets.{name}"
            raise DataError(
                f"{path} makes images of {got}, expected {wanted} of every dataset (dataset.size={size}, "
                f"dataset.channels={channels}); set {path}.size={expected[1]} {path}.channels={expected[0]}."
            )
