"""The two kinds of batches. No bare tuple or dict is passed between modules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from ssl_runner.data.masking.masking import Masks


@dataclass(frozen=True)
class Views:
    """Several views of the same images.

    Attributes:
        crops: One float tensor (V, B, C, H, W) in [0, 1] per resolution, global views first.
        labels: int64 (B,), or None.
        indices: int64 (B,), the images' indices in the dataset.
        masks: What is hidden of the global views, ``crops[0]``, or None.
    """

    crops: tuple[Tensor, ...]
    labels: Tensor | None
    indices: Tensor
    masks: Masks | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> Self:
        return self.each(lambda tensor: tensor.to(device))

    def tensors(self) -> list[Tensor]:
        """All tensors of the batch; in batches with equal fields always in the same order."""
        masks = [] if self.masks is None else self.masks.tensors()
        return [*self.crops, *([] if self.labels is None else [self.labels]), self.indices, *masks]

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch with every tensor changed."""
        labels = None if self.labels is None else change(self.labels)
        masks = None if self.masks is None else self.masks.each(change)
        return replace(
            self, crops=tuple(map(change, self.crops)), labels=labels, indices=change(self.indices), masks=masks
        )

    def chunk(self, n: int) -> list[Self]:
        """At most n batches of B / n images each; all views of an image stay together."""
        labels = [None] * n if self.labels is None else self.labels.chunk(n)
        crops = zip(*(crop.chunk(n, dim=1) for crop in self.crops), strict=True)
        masks = [None] * n if self.masks is None else self.masks.chunk(n)
        # torch's chunk may return fewer pieces than n, and then there are more Nones than needed
        parts = zip(crops, labels, self.indices.chunk(n), masks, strict=False)
        return [replace(self, crops=a, labels=b, indices=c, masks=d) for a, b, c, d in parts]


@dataclass(frozen=True)
class Episodes:
    """T tasks of n_way classes with K support images each.

    Attributes:
        support_images: float (T, N*K, C, H, W) in [0, 1].
        support_labels: int64 (T, N*K) in [0, n_way).
        query_images: float (T, Q, C, H, W) in [0, 1].
        query_labels: int64 (T, Q) in [0, n_way).
        n_way: Number of classes in a task.
        domains: Weights (T,) of each domain, by its name. With them, the mean over all tasks of the global batch
            becomes the mean over the tasks of the domain.
    """

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor
    n_way: int
    domains: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.support_labels)

    def to(self, device: torch.device | str) -> Self:
        return self.each(lambda tensor: tensor.to(device))

    def tensors(self) -> list[Tensor]:
        """All tensors of the batch; in batches with equal fields always in the same order."""
        images = [self.support_images, self.support_labels, self.query_images, self.query_labels]
        return [*images, *(self.domains[name] for name in sorted(self.domains))]

    def chunk(self, n: int) -> list[Self]:
        """At most n batches of T / n tasks each."""
        size = -(-len(self) // n)
        starts = range(0, len(self), size)
        return [self.each(lambda tensor, start=start: tensor[start : start + size]) for start in starts]

    def by_domain(self, accuracy: Tensor) -> dict[str, Tensor]:
        """``accuracy/DOMAIN`` from accuracies (T,). Its mean over pieces of a batch is the mean over the domain's
        tasks.
        """
        return {f"accuracy/{name}": (weights * accuracy).mean() for name, weights in self.domains.items()}

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch with every tensor changed."""
        return replace(
            self,
            support_images=change(self.support_images),
            support_labels=change(self.support_labels),
            query_images=change(self.query_images),
            query_labels=change(self.query_labels),
            domains={name: change(weights) for name, weights in self.domains.items()},
        )
