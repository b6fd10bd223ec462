"""Frozen features: what kNN, linear probe and the default few-shot classifier judge."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssl_runner import randomness
from ssl_runner.data.dataset import Dataset, Splits

BATCH_SIZE = 256
# One seed for all, so that every evaluator and every run is judged on the same halves.
SEED = 0

# Encoder and dataset stand in the values so that their ids, the key, cannot be given to other objects.
_Memory = dict[tuple[int, int], tuple[nn.Module, Dataset, Tensor]]
_memory: ContextVar[_Memory | None] = ContextVar("features", default=None)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient; every submodule's own mode comes back afterwards, also after an error.

    no_grad and not inference_mode: algorithms that adapt enable gradients inside.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def remembered() -> Iterator[None]:
    """Within it, no encoder sees a dataset twice. The weights must not change before it ends."""
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def features(encoder: nn.Module, images: Tensor, device: torch.device, batch_size: int = BATCH_SIZE) -> Tensor:
    """float32 (N, D) on the device, of images uint8 (N, C, H, W); the last, smaller batch included."""
    with evaluating(encoder):
        parts = [encoder(batch.to(device)).flatten(1).float() for batch in images.split(batch_size)]
    return torch.cat(parts)


def dataset_features(encoder: nn.Module, dataset: Dataset, device: torch.device) -> Tensor:
    """`features` of a whole dataset, computed once within `remembered`.

    Raises:
        ValueError: If a feature is not finite.
    """
    memory = _memory.get()
    key = (id(encoder), id(dataset))
    if memory is not None and key in memory:
        return memory[key][2]
    result = features(encoder, dataset.images, device)
    if not result.isfinite().all():
        raise ValueError(f"features of {dataset.name} are not finite: training has diverged; lower optimizer.lr")
    if memory is not None:
        memory[key] = (encoder, dataset, result)
    return result


@dataclass(frozen=True)
class BankAndQueries:
    """Labelled features to learn from, and others to be judged on.

    Attributes:
        bank: (N, D).
        bank_labels: int64 (N,) in [0, n_classes).
        validation: bool (N,), the rows of the bank on which a probe may choose its settings.
        queries: (M, D).
        query_labels: int64 (M,).
        n_classes: Of the dataset.
    """

    bank: Tensor
    bank_labels: Tensor
    validation: Tensor
    queries: Tensor
    query_labels: Tensor
    n_classes: int


def bank_and_queries(encoder: nn.Module, splits: Splits, device: torch.device) -> BankAndQueries:
    """Features of the two sets that `describe` names; without a validation split, a share of the bank plays it.

    Raises:
        ValueError: If a split has no labels.
    """
    labels = labels_of(splits.test).to(device)
    found = dataset_features(encoder, splits.test, device)
    if splits.by == "classes":
        queries = share(labels_of(splits.test), 0.5, "halves").to(device)
        bank, bank_labels, found, labels = found[~queries], labels[~queries], found[queries], labels[queries]
        validation = share(bank_labels.cpu(), 0.2, "validation")
    else:
        learn = [splits.train] if splits.validation is None else [splits.train, splits.validation]
        bank = torch.cat([dataset_features(encoder, part, device) for part in learn])
        bank_labels = torch.cat([labels_of(part) for part in learn])
        validation = torch.arange(len(bank_labels)) >= len(splits.train)
        if splits.validation is None:
            validation = share(bank_labels, 0.2, "validation")
    n_classes = splits.test.n_classes
    return BankAndQueries(bank, bank_labels.to(device), validation.to(device), found, labels, n_classes)


def describe(splits: Splits) -> dict[str, Any]:
    """What bank, validation and queries are, as plain data for the result."""
    if splits.by == "classes":
        queries = int(share(labels_of(splits.test), 0.5, "halves").sum())
        return {
            "bank": f"one half of each class of {splits.test.name}",
            "bank_size": len(splits.test) - queries,
            "validation": "a fifth of each class of the bank",
            "queries": f"the other half of each class of {splits.test.name}",
            "query_size": queries,
            "classes": "unseen",
            "seed": SEED,
        }
    validation = splits.validation
    return {
        "bank": splits.train.name if validation is None else f"{splits.train.name} and {validation.name}",
        "bank_size": len(splits.train) + (0 if validation is None else len(validation)),
        "validation": "a fifth of each class of the bank" if validation is None else validation.name,
        "queries": splits.test.name,
        "query_size": len(splits.test),
        "classes": "seen",
        "seed": SEED,
    }


def share(labels: Tensor, fraction: float, stream: str) -> Tensor:
    """bool (N,): a fixed random fraction of each class, at least one image of it and never all of them."""
    order = torch.from_numpy(randomness.permutation(SEED, stream, 0, len(labels)))
    order = order[labels[order].argsort(stable=True)]  # class after class, shuffled within each
    counts = labels.bincount()
    ranks = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    wanted = (counts * fraction).round().long().clamp(min=1).minimum(counts - 1)
    chosen = torch.empty(len(labels), dtype=torch.bool)
    chosen[order] = ranks < wanted[labels[order]]
    return chosen


def labels_of(dataset: Dataset) -> Tensor:
    """int64 (N,).

    Raises:
        ValueError: If it has none.
    """
    if dataset.labels is None:
        raise ValueError(f"{dataset.name} has no labels, and without them nothing can be scored; run with eval=[]")
    return dataset.labels
