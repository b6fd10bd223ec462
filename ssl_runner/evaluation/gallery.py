"""Chooses the labelled images that evaluators learn from, and those that they are scored on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.data.dataset import Dataset, Images, Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import randomness

# One seed for all, so that every evaluator and every run uses the same halves and the same labels.
SEED = 0


@dataclass(frozen=True)
class GalleryIndices:
    """Indices of labelled images to learn from (gallery), and of others to be scored on (queries).

    Attributes:
        parts: Datasets that hold the gallery; indices count through them in order.
        gallery: int64 (N,), ascending.
        gallery_labels: int64 (N,) in [0, n_classes).
        validation: bool (N,), the rows of the gallery on which a probe may choose its settings.
        queries: int64 (M,), indices in the test split.
        query_labels: int64 (M,).
    """

    parts: tuple[Dataset, ...]
    gallery: Tensor
    gallery_labels: Tensor
    validation: Tensor
    queries: Tensor
    query_labels: Tensor

    def images(self) -> list[Images]:
        """The gallery's images, uint8 (N_i, C, H, W) of each part; a part that is used whole is not copied."""
        found, start = [], 0
        for part in self.parts:
            inside = (self.gallery >= start) & (self.gallery < start + len(part))
            found.append(images_at(part.images, self.gallery[inside] - start))
            start += len(part)
        return found


def gallery_indices(splits: Splits, labels: float = 1.0) -> GalleryIndices:
    """Gallery and queries as `describe` says; a share of the labels is drawn from the whole gallery.

    Args:
        labels: Share of the gallery's labels in (0, 1]. Below 1, a fifth of the drawn images of each class is
            validation, so that choosing a probe's settings needs no further labels.

    Raises:
        ValueError: If a split has no labels, or the data is split by images and train has other classes than test
            (for example clusters).
    """
    query_labels = labels_of(splits.test)
    queries = torch.arange(len(query_labels))
    if splits.by == "classes":
        half = share(query_labels, 0.5, "halves")
        parts, gallery, gallery_labels = (splits.test,), queries[~half], query_labels[~half]
        queries, query_labels = queries[half], query_labels[half]
    else:
        parts = (splits.train,) if splits.validation is None else (splits.train, splits.validation)
        gallery_labels = torch.cat([labels_of(part) for part in parts])
        gallery = torch.arange(len(gallery_labels))
        if splits.train.class_names != splits.test.class_names:
            raise InvalidValue(
                f"{splits.train.name} has other classes than {splits.test.name}, so its labels are of no use for "
                "these; choose eval=[few_shot], or a dataset split by classes"
            )
    if labels < 1:
        drawn = share(gallery_labels, labels, "labels", spare=0)
        gallery, gallery_labels = gallery[drawn], gallery_labels[drawn]
    own = labels == 1 and len(parts) == 2
    validation = gallery >= len(splits.train) if own else share(gallery_labels, 0.2, "validation")
    return GalleryIndices(parts, gallery, gallery_labels, validation, queries, query_labels)


def describe(splits: Splits, labels: float = 1.0) -> dict[str, Any]:
    """A description of gallery, validation, queries and the drawn share of the labels, as plain data."""
    found, whole, halved = gallery_indices(splits, labels), labels == 1, splits.by == "classes"
    if halved:
        gallery, queries = (f"{half} half of each class of {splits.test.name}" for half in ("one", "the other"))
    else:
        gallery, queries = " and ".join(part.name for part in found.parts), splits.test.name
    validation = f"a fifth of each class of the {'gallery' if whole else 'labelled images'}"
    if whole and len(found.parts) == 2:
        validation = found.parts[1].name
    drawn = "at random within each class, at least one image per class; a smaller share is part of a larger one"
    return {
        "gallery": gallery,
        "gallery_size": len(gallery_indices(splits).gallery),
        **({} if whole else {"labels": labels, "labelled_images": len(found.gallery), "drawn": drawn}),
        "validation": validation,
        "queries": queries,
        "query_size": len(found.queries),
        "classes": "unseen" if halved else "seen",
        "seed": SEED,
    }


def share(labels: Tensor, fraction: float, stream: str, spare: int = 1) -> Tensor:
    """A mask, bool (N,), of a fixed random fraction of each class, at least one image per class.

    Within one stream, a smaller fraction is part of a larger one.

    Args:
        labels: int64 (N,).
        fraction: In (0, 1].
        stream: Name of the random draw.
        spare: Smallest number of images of each class to leave out; with 1, a class with one image contributes none.
    """
    order = torch.from_numpy(randomness.permutation(SEED, stream, 0, len(labels)))
    order = order[labels[order].argsort(stable=True)]  # class after class, shuffled within each
    counts = labels.bincount()
    ranks = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    wanted = (counts * fraction).round().long().clamp(min=1).minimum(counts - spare)
    chosen = torch.empty(len(labels), dtype=torch.bool)
    chosen[order] = ranks < wanted[labels[order]]
    return chosen


def rows_at(values: Tensor, wanted: Tensor) -> Tensor:
    """The rows at distinct, ascending indices (M,); if these are all rows, they are not copied."""
    return values if len(wanted) == len(values) else values[wanted.to(values.device)]


def images_at(images: Images, wanted: Tensor) -> Images:
    """Like `rows_at`; images of a store are not decoded."""
    return rows_at(images, wanted) if isinstance(images, Tensor) else images.at(wanted)


def rows_of(parts: Sequence[Images], rows: Tensor, device: torch.device) -> Tensor:
    """Rows (M,) of the concatenated parts, in this order on the device, without waiting for a GPU that holds them."""
    found, order, start = [], [], 0
    for part in parts:
        inside = ((rows >= start) & (rows < start + len(part))).nonzero().squeeze(1)
        found.append(to_device(part[to_device(rows[inside] - start, part.device)], device))
        order.append(inside)
        start += len(part)
    return torch.cat(found)[to_device(torch.cat(order).argsort(), device)]


def labels_of(dataset: Dataset) -> Tensor:
    """The labels, int64 (N,).

    Raises:
        ValueError: If the dataset has no labels.
    """
    if dataset.labels is None:
        raise InvalidValue(
            f"{dataset.name} has no labels, so it cannot be scored; evaluate on a labelled dataset, say "
            "eval=[knn_cifar10], or run with eval=[]"
        )
    return dataset.labels


def by_share(evaluator: str, labels: float) -> str:
    """An evaluator's name with a share of the labels: ``fine_tuning`` for 1, ``fine_tuning_1pct`` for 0.01.

    Raises:
        ValueError: If the share is outside (0, 1].
    """
    if not 0 < labels <= 1:
        raise InvalidValue(f"labels={labels}; give a share of the labels in (0, 1], 1 for all of them")
    return evaluator if labels == 1 else f"{evaluator}_{100 * labels:g}pct"
