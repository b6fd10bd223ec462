"""How hard an algorithm's negatives are, and how many of them are none: figures, and what pictures are made of."""

from dataclasses import replace

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.losses.loss import Loss
from ssl_runner.losses.negatives import Negatives
from ssl_runner.runtime.step_context import StepContext

SEED = 0


def told(algorithm: Algorithm) -> bool:
    """Whether the algorithm's loss says what its negatives are."""
    loss = getattr(algorithm, "loss", None)
    return isinstance(loss, Loss) and type(loss).negatives is not Loss.negatives


def negatives(algorithm: Algorithm, images: Tensor, embedded: Tensor, labels: Tensor | None) -> Negatives | None:
    """What repels each of some views in the algorithm's loss.

    Args:
        algorithm: In evaluation mode, without gradient; its loss tells its negatives (`told`).
        images: (2, B, C, H, W), two views an image.
        embedded: (2, B, E), their `Algorithm.embedding`.
        labels: int64 (B,), or None.

    Returns:
        None where labels are missing that the loss needs.
    """
    loss = algorithm.loss
    assert isinstance(loss, Loss)
    if "labels" in loss.needs and labels is None:
        return None
    seen = replace(algorithm.compared(images, embedded), labels=labels)
    return loss.negatives(seen, StepContext(0, 1, SEED, images.device))  # one step: the same draws at every look


def figures(found: Negatives, labels: Tensor | None) -> dict[str, Tensor]:
    """Scalars, the mean over anchors that something repels.

    - ``effective_negatives``: exp of the entropy of an anchor's weights: as many negatives of one weight would be as
      spread. Over all anchors; one that nothing repels has 0.
    - ``hardest_negative_similarity`` and ``positive_similarity``: cosines.
    - ``negatives_above_positive``: share of the negatives that are more similar to the anchor than its positive.
    - ``false_negative_rate``: share of the weight that lies on images of the anchor's own class.
    - ``false_negative_base_rate``: what that would be if all other images had one weight. The ratio of the two is how
      much more often the loss picks its own class than chance does. Both are left out where there are negatives that
      show no image: a queue does not know their classes.

    Args:
        found: What repels each anchor.
        labels: int64 (B,) of the images, or None: the last two are left out. Where nothing repels any anchor, only
            ``effective_negatives`` and ``positive_similarity`` are given.
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
    """Which pairs (n, m) are of two images of one class, and which are of two images at all.

    Args:
        found: Of B images, and nothing that shows none.
        labels: int64 (B,).
    """
    images = torch.arange(len(labels), device=labels.device)
    rows, columns = (images.repeat(n // len(labels)) for n in found.weight.shape)
    other = rows[:, None] != columns[None, :]
    return other & (labels[rows][:, None] == labels[columns][None, :]), other
