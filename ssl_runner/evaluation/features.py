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


@dataclass(frozen=True)
class _Known:
    """Features (N, D) of a dataset, and which of its rows, bool (N,), are computed.

    It holds encoder and dataset, so that other objects cannot reuse their ids, which are the key.
    """

    encoder: nn.Module
    dataset: Dataset
    features: Tensor
    rows: Tensor


_Memory = dict[tuple[int, int, Reading], _Known]
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
    """`features` of a whole dataset, (N, D). Inside `remembered`, no row is computed twice.

    Raises:
        ValueError: If a feature is not finite, or the encoder has none that can be read so.
    """
    return features_at(encoder, dataset, torch.arange(len(dataset)), device, reading)


def features_at(
    encoder: nn.Module, dataset: Dataset, indices: Tensor, device: torch.device, reading: Reading = OWN
) -> Tensor:
    """Like `dataset_features`, (N, D), where only the rows at these indices, int64 (M,), are needed.

    The others are computed, too, if half of the rows are missing or more; else they may be 0.

    Raises:
        ValueError: If a feature is not finite, or the encoder has none that can be read so.
    """
    memory, key = _memory.get(), (id(encoder), id(dataset), reading)
    known = None if memory is None else memory.get(key)
    rows = torch.zeros(len(dataset), dtype=torch.bool) if known is None else known.rows
    wanted = torch.zeros_like(rows)
    wanted[indices.cpu()] = True
    missing = wanted & ~rows
    if known is not None and not missing.any():
        return known.features
    if 2 * int(missing.sum()) >= len(dataset):
        missing = ~rows
    places = missing.nonzero()[:, 0]
    computed = _finite(features(reading.of(encoder), images_at(dataset.images, places), device), dataset)
    if len(places) == len(dataset):
        found = computed
    else:
        before = computed.new_zeros(len(dataset), computed.shape[1]) if known is None else known.features
        found = before.index_copy(0, places.to(device), computed)
    if memory is not None:
        memory[key] = _Known(encoder, dataset, found, rows | missing)
    return found


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
    learned, start = [], 0
    for part in found.parts:
        inside = found.gallery[(found.gallery >= start) & (found.gallery < start + len(part))] - start
        learned.append(rows_at(features_at(encoder, part, inside, device, reading), inside))
        start += len(part)
    queries = features_at(encoder, splits.test, found.queries, device, reading)
    return GalleryAndQueries(
        learned[0] if len(learned) == 1 else torch.cat(learned),
        found.gallery_labels.to(device),
        found.validation.to(device),
        rows_at(queries, found.queries),
        found.query_labels.to(device),
        splits.test.n_classes,
    )
