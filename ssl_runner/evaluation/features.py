"""Frozen features, which kNN, the linear probe and the default few-shot classifier use."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.gallery import gallery_indices, images_at, rows_at
from ssl_runner.evaluation.reading import OWN, Reading
from ssl_runner.models.features import features

# The values hold encoder and dataset, so that other objects cannot reuse their ids, which are the key.
_Memory = dict[tuple[int, int, Reading], tuple[nn.Module, Dataset, Tensor]]
_memory: ContextVar[_Memory | None] = ContextVar("features", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, no encoder processes a dataset twice. The weights must not change before it ends."""
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def dataset_features(encoder: nn.Module, dataset: Dataset, device: torch.device, reading: Reading = OWN) -> Tensor:
    """`features` of a whole dataset, computed only once inside `remembered`.

    Raises:
        ValueError: If a feature is not finite, or the encoder has none that can be read so.
    """
    memory = _memory.get()
    key = (id(encoder), id(dataset), reading)
    if memory is not None and key in memory:
        return memory[key][2]
    result = _finite(features(reading.of(encoder), dataset.images, device), dataset)
    if memory is not None:
        memory[key] = (encoder, dataset, result)
    return result


def features_at(encoder: nn.Module, dataset: Dataset, indices: Tensor, device: torch.device) -> Tensor:
    """`dataset_features` of which only the rows at these indices (M,) are needed; the others may be 0.

    If they are less than half of the dataset and not yet computed, the others are skipped.

    Raises:
        ValueError: If a feature is not finite.
    """
    if 2 * len(indices) > len(dataset) or (id(encoder), id(dataset), OWN) in (_memory.get() or {}):
        return dataset_features(encoder, dataset, device)
    found = _finite(features(encoder, images_at(dataset.images, indices), device), dataset)
    return found.new_zeros(len(dataset), found.shape[1]).index_copy_(0, indices.to(device), found)


def _finite(found: Tensor, dataset: Dataset) -> Tensor:
    if not found.isfinite().all():
        raise InvalidValue(f"features of {dataset.name} are not finite: training has diverged; lower optimizer.lr")
    return found


@dataclass(frozen=True)
class GalleryAndQueries:
    """Labelled features to learn from (gallery), and others to be classified (queries).

    Attributes:
        gallery: (N, D).
        gallery_labels: int64 (N,) in [0, n_classes).
        validation: bool (N,), the rows of the gallery on which a probe may choose its settings.
        queries: (M, D).
        query_labels: int64 (M,).
        n_classes: Number of classes of the dataset.
    """

    gallery: Tensor
    gallery_labels: Tensor
    validation: Tensor
    queries: Tensor
    query_labels: Tensor
    n_classes: int


def gallery_and_queries(
    encoder: nn.Module, splits: Splits, device: torch.device, labels: float = 1.0, reading: Reading = OWN
) -> GalleryAndQueries:
    """Features of the images that `gallery_indices` chooses, with a fraction ``labels`` of the gallery.

    Raises:
        ValueError: If a split has no labels, or the encoder has no features that can be read so.
    """
    found = gallery_indices(splits, labels)
    queries = dataset_features(encoder, splits.test, device, reading)
    parts = [dataset_features(encoder, part, device, reading) for part in found.parts]
    gallery = rows_at(parts[0] if len(parts) == 1 else torch.cat(parts), found.gallery)
    return GalleryAndQueries(
        gallery,
        found.gallery_labels.to(device),
        found.validation.to(device),
        rows_at(queries, found.queries),
        found.query_labels.to(device),
        splits.test.n_classes,
    )
