"""What repels an anchor, and how strongly: for people to look at, never a part of a loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_runner.losses.similarity import unit


@dataclass(frozen=True)
class Negatives:
    """The negatives of every anchor, without gradient.

    Anchors are rows. With B images, row r is of view r // B of image r % B, and so is column c.

    Attributes:
        similarity: (n, m), cosines of the anchors with all that they could be compared with.
        positive: (n,), of an anchor with its positive; the mean where it has several.
        weight: (n, m), at least 0: the share of a negative in the gradient that repels its anchor, with respect to
            what the loss measures (cosines or distances). A row adds up to 1, or to 0 where nothing repels the anchor;
            what is no negative has 0.
    """

    similarity: Tensor
    positive: Tensor
    weight: Tensor


def softmax_negatives(online: Tensor, sharpness: float, labels: Tensor | None = None) -> Negatives:
    """Of a loss in which negatives count as softmax(sharpness * cosine).

    Args:
        online: (V, B, D), unnormalised.
        sharpness: 1 / temperature, or what stands for it.
        labels: (B,), where images of a class are each other's positives, else None.
    """
    flat = unit(online).flatten(0, 1)
    similarity = flat @ flat.T
    positive, negative = roles(online, labels)
    weight = softmax_among(sharpness * similarity, negative)
    return Negatives(similarity, mean_of_rows(similarity, positive), weight)


def softmax_among(exponents: Tensor, negative: Tensor) -> Tensor:
    """Of the marked exponents of each row (n, m), never 0 there; 0 elsewhere, also where a row has none marked."""
    weight = exponents.masked_fill(~negative, -torch.inf).softmax(dim=1)
    # an easy negative underflows, and would be none
    return weight.clamp_min(torch.finfo(weight.dtype).tiny).masked_fill(~negative, 0)


def counted_negatives(online: Tensor, counts: Tensor, labels: Tensor | None) -> Negatives:
    """Of a loss that says itself how often, or how strongly, each pair (n, n) of views counts as a negative."""
    flat = unit(online).flatten(0, 1)
    similarity = flat @ flat.T
    return Negatives(similarity, mean_of_rows(similarity, roles(online, labels)[0]), shares(counts))


def roles(online: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which of all pairs of views (V, B, D) are positives and which negatives: bool (V B, V B)."""
    views, images = online.shape[:2]
    kind = torch.arange(images, device=online.device) if labels is None else labels
    kind = kind.repeat(views)
    same = kind[:, None] == kind[None, :]
    return same & ~torch.eye(len(kind), dtype=torch.bool, device=online.device), ~same


def shares(counts: Tensor) -> Tensor:
    """Counts (n, m), each row divided by its sum; a row of nothing stays so."""
    total = counts.sum(dim=1, keepdim=True)
    return counts / total.where(total > 0, 1.0)


def mean_of_rows(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the marked values of each row, (n, m) to (n,): 0 where none is marked."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
