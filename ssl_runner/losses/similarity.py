"""Cosine similarities between views: what the contrastive losses share."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(embeddings: Tensor) -> Tensor:
    """L2-normalised along the last dimension, in float32 at least: exp(1 / temperature) overflows half precision."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


def refuse_temperature(temperature: float) -> None:
    """Raises ValueError unless it is above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}, but it divides similarities; give a number above 0, say 0.1")


def two_views(online: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Compare each of 2N views with its partner, and with the 2N - 2 views of the other images.

    Args:
        online: (2, N, D), unnormalised.
        temperature: Divides the cosines.

    Returns:
        positive: (2N,), first views first.
        negative: (2N, 2N), -inf where both are views of one image.

    Raises:
        ValueError: There are not two views, or there is no second image.
    """
    if len(online) != 2:
        raise ValueError(f"the loss compares 2 views, got {len(online)}; set batching.views=2")
    n = online.shape[1]
    refuse_lone_image(n)
    views = unit(online)
    positive = (views[0] * views[1]).sum(dim=-1).repeat(2) / temperature
    flat = views.flatten(0, 1)
    image = torch.arange(n, device=flat.device).repeat(2)
    negative = (flat @ flat.T / temperature).masked_fill(image[:, None] == image[None, :], -torch.inf)
    return positive, negative


def refuse_lone_image(n: int) -> None:
    """Raises ValueError for a batch in which no image has another one to be told from."""
    if n < 2:
        raise ValueError(f"the loss tells the images of a batch apart, got {n}; give batching.batch_size at least 2")


def different_views(n_online: int, n_target: int) -> list[tuple[int, int]]:
    """Ordered pairs (i, j) of an online view and the target of another view.

    Raises:
        ValueError: There is no such pair.
    """
    pairs = [(i, j) for i in range(n_online) for j in range(n_target) if i != j]
    if not pairs:
        raise ValueError(
            f"the loss compares each view with the target of another, got {n_online} online and {n_target} target "
            "views of one number; set batching.views=2"
        )
    return pairs


@torch.no_grad()
def anchor_metrics(positive: Tensor, negative: Tensor, temperature: float) -> dict[str, Tensor]:
    """How often the positive (n,) beats all negatives (n, m) of its anchor, and the cosine of the positives."""
    return {
        "contrastive_accuracy": (negative < positive[:, None]).all(dim=1).float().mean(),
        "positive_similarity": positive.mean() * temperature,
    }
