"""What repels an anchor, and how strongly. For diagnostics only; no loss uses it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_runner.losses.similarity import different_views, unit


@dataclass(frozen=True)
class Negatives:
    """The negatives of every anchor, without gradient.

    Rows are anchors. With B images, row r is view r // B of image r % B, or what represents it. Columns are numbered in
    the same way, except that the last ones may not be images but earlier embeddings or mixtures.

    Attributes:
        similarity: (n, m), cosines of the anchors with everything they can be compared with.
        positive: (n,), cosine of each anchor with its positive; the mean if it has several.
        weight: (n, m), at least 0: the share of each negative in the gradient that repels its anchor, with respect to
            what the loss measures (cosines or distances). A row sums to 1, or to 0 if nothing repels the anchor.
            Whatever is not a negative has 0.
        remembered: How many of the last columns are not images.
    """

    similarity: Tensor
    positive: Tensor
    weight: Tensor
    remembered: int = 0

    def pictured(self) -> "Negatives":
        """The columns that are images, with their weights among all columns. There may be none."""
        images = self.similarity.shape[1] - self.remembered
        return Negatives(self.similarity[:, :images], self.positive, self.weight[:, :images])


def softmax_negatives(online: Tensor, sharpness: float, labels: Tensor | None = None) -> Negatives:
    """Negatives of a loss in which they count as softmax(sharpness * cosine).

    Args:
        online: (V, B, D), unnormalised.
        sharpness: 1 / temperature, or an equivalent factor.
        labels: (B,) if images of a class are positives of each other, otherwise None.
    """
    flat = unit(online).flatten(0, 1)
    similarity = flat @ flat.T
    positive, negative = roles(online, labels)
    weight = softmax_among(sharpness * similarity, negative)
    return Negatives(similarity, mean_of_rows(similarity, positive), weight)


def softmax_among(exponents: Tensor, negative: Tensor) -> Tensor:
    """Softmax over the marked exponents of each row (n, m). It is never 0 for these, and 0 elsewhere and in rows
    without any.
    """
    weight = exponents.masked_fill(~negative, -torch.inf).softmax(dim=1)
    return _never_0(weight).masked_fill(~negative, 0)


def _never_0(weight: Tensor) -> Tensor:
    """Keeps the weight of an easy negative from underflowing to 0, which would mean that it is not a negative."""
    return weight.clamp_min(torch.finfo(weight.dtype).tiny)


def counted_negatives(online: Tensor, counts: Tensor, labels: Tensor | None) -> Negatives:
    """Negatives of a loss that itself says how often, or how strongly, each pair (n, n) of views counts."""
    flat = unit(online).flatten(0, 1)
    similarity = flat @ flat.T
    return Negatives(similarity, mean_of_rows(similarity, roles(online, labels)[0]), shares(counts))


def negatives_across(anchors: Tensor, others: Tensor, temperature: float) -> Negatives:
    """Negatives of InfoNCE between views: the other images of each view with a different number.

    Args:
        anchors: (V, B, D), normalised.
        others: (G, B, D), normalised: the columns.
        temperature: Divides the cosines.
    """
    similarity = torch.einsum("vbd,gcd->vbgc", anchors, others)
    compared = torch.zeros_like(similarity, dtype=torch.bool)
    for i, j in different_views(len(anchors), len(others)):
        compared[i, :, j] = True
    same = torch.eye(anchors.shape[1], dtype=torch.bool, device=anchors.device)[None, :, None]
    weight = _never_0((similarity / temperature).softmax(dim=-1)) * (compared & ~same)
    shape = (anchors.shape[0] * anchors.shape[1], -1)
    similarity, positive = similarity.reshape(shape), (compared & same).reshape(shape)
    return Negatives(similarity, mean_of_rows(similarity, positive), shares(weight.reshape(shape)))


def negatives_remembered(
    online: Tensor, target: Tensor, memory_bank: Tensor, temperature: float, mixed: Sequence[Tensor]
) -> Negatives:
    """Negatives of InfoNCE against a memory bank and against mixtures of its entries. No column is an image.

    Args:
        online: (V, B, D), normalised.
        target: (G, B, D), normalised: the positives.
        memory_bank: (M, D), normalised; M may be 0.
        temperature: Divides the cosines.
        mixed: Cosines (B, S) of further negatives for each pair of different views, or empty. Their columns follow
            those of the memory bank, pair after pair.
    """
    pairs = different_views(len(online), len(target))
    parts = mixed or [online.new_zeros(online.shape[1], 0)] * len(pairs)
    ends = torch.tensor([part.shape[1] for part in parts]).cumsum(0).add(len(memory_bank)).tolist()
    similarity = online.new_zeros(*online.shape[:2], ends[-1])
    similarity[..., : len(memory_bank)] = online @ memory_bank.T
    weight, positive = torch.zeros_like(similarity), online.new_zeros(online.shape[:2])
    for (i, j), part, end in zip(pairs, parts, ends, strict=True):
        pair = (online[i] * target[j]).sum(dim=-1)
        cosines = torch.cat([pair[:, None], similarity[i, :, : len(memory_bank)], part], dim=1)
        share = _never_0((cosines / temperature).softmax(dim=1)[:, 1:])
        own = slice(end - part.shape[1], end)
        weight[i, :, : len(memory_bank)] += share[:, : len(memory_bank)]
        similarity[i, :, own], weight[i, :, own] = part, share[:, len(memory_bank) :]
        positive[i] += pair / sum(view == i for view, _ in pairs)
    weight = shares(weight.flatten(0, 1))
    return Negatives(similarity.flatten(0, 1), positive.flatten(), weight, remembered=weight.shape[1])


def roles(online: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Masks (V B, V B) of the pairs of views (V, B, D) that are positives and of those that are negatives."""
    views, images = online.shape[:2]
    kind = torch.arange(images, device=online.device) if labels is None else labels
    kind = kind.repeat(views)
    same = kind[:, None] == kind[None, :]
    return same & ~torch.eye(len(kind), dtype=torch.bool, device=online.device), ~same


def shares(counts: Tensor) -> Tensor:
    """Counts (n, m) with each row divided by its sum; a row of zeros stays zero."""
    total = counts.sum(dim=1, keepdim=True)
    return counts / total.where(total > 0, 1.0)


def mean_of_rows(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the marked values of each row, (n, m) to (n,); 0 if none is marked."""
    return (values * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
