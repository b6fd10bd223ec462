"""How hard an algorithm's negatives are and how many are false: metrics, and the data for pictures."""

from dataclasses import replace

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.losses.loss import Loss
from ssl_runner.losses.negatives import Negatives
from ssl_runner.runtime.step_context import StepContext

SEED = 0


def available(algorithm: Algorithm) -> bool:
    """Whether the algorithm's loss can return its negatives."""
    loss = getattr(algorithm, "loss", None)
    return isinstance(loss, Loss) and type(loss).negatives is not Loss.negatives


def negatives(algorithm: Algorithm, images: Tensor, embedded: Tensor, labels: Tensor | None) -> Negatives | None:
    """The negatives of each view in the algorithm's loss.

    Args:
        algorithm: In evaluation mode, without gradient; its loss returns its negatives (`available`).
        images: (2, B, C, H, W), two views of each image.
        embedded: (2, B, E), their `Algorithm.embedding`.
        labels: int64 (B,), or None.

    Returns:
        The negatives, or None if the loss needs labels and there are none.
    """
    loss = algorithm.loss
    assert isinstance(loss, Loss)
    if "labels" in loss.needs and labels is None:
        return None
    seen = replace(algorithm.compared(images, embedded), labels=labels)
    return loss.negatives(
        seen, StepContext(0, 1, SEED, images.device)
    )  # always the same step, so the same draws each time


def figures(found: Negatives, labels: Tensor | None) -> dict[str, Tensor]:
    """Metrics, averaged over the anchors that have negatives.

    - ``effective_negatives``: exp of the entropy of an anchor's weights, that is, the number of equally weighted
      negatives with the same entropy. Averaged over all anchors; an anchor without negatives counts as 0.
    - ``hardest_negative_similarity`` and ``positive_similarity``: cosines.
    - ``negatives_above_positive``: share of the negatives that are more similar to the anchor than its positive is.
    - ``false_negative_rate``: share of the weight on images of the anchor's own class.
    - ``false_negative_base_rate``: the same if all other images had equal weight. The ratio of the two says how much
      more often than by chance the loss picks images of the anchor's class. Both are left out if there are negatives
      that belong to no image here, since the classes in a queue are unknown.

    Args:
        found: The negatives of each anchor.
        labels: int64 (B,) of the images, or None to leave out the last two. If no anchor has negatives, only
            ``effective_negatives`` and ``positive_similarity`` are returned.
    """
    anchors = found.weight.sum(dim=1) > 0
    effective = torch.special.entr(found.weight).sum(dim=1).exp() * anchors
    metrics = {"effective_negatives": effective.mean(), "positive_similarity": found.positive.mean()}
    if not anchors.any():
        return metrics
    weight, similarity = found.weight[anchors], found.similarity[anchors]
    counts = weight > 0
    above = (similarity > found.positive[anchors, None]) & counts
    metrics |= {
        "hardest_negative_similarity": similarity.masked_fill(~counts, -torch.inf).amax(dim=1).mean(),
        "negatives_above_positive": above.sum() / counts.sum(),
    }
    if labels is not None and not found.remembered:
        own, other = (pairs[anchors] for pairs in kinship(found, labels))
        metrics["false_negative_rate"] = (weight * own).sum(dim=1).mean()
        metrics["false_negative_base_rate"] = (own.sum(dim=1) / other.sum(dim=1)).mean()
    return metrics


def kinship(found: Negatives, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (n, m) of the pairs of different images with the same class, and of all pairs of different images.

    Args:
        found: Negatives of B images; each must belong to one of these images.
        labels: int64 (B,).
    """
    images = torch.arange(len(labels), device=labels.device)
    rows, columns = (images.repeat(n // len(labels)) for n in found.weight.shape)
    other = rows[:, None] != columns[None, :]
    return other & (labels[rows][:, None] == labels[columns][None, :]), other
