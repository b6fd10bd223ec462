"""Cosine similarities between views: what the contrastive losses share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.tiled import Comparison, tiled_comparison

# Rows from which tiles are faster than the whole matrix. Fewer can be differentiated twice.
TILED_FROM = 512


def unit(embeddings: Tensor) -> Tensor:
    """L2-normalised along the last dimension, in float32 at least: exp(1 / temperature) overflows half precision."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


def refuse_temperature(temperature: float) -> None:
    """Raises ValueError unless it is above 0."""
    if not temperature > 0:
        raise InvalidValue(f"temperature={temperature}, but it divides similarities; give a number above 0, say 0.1")


def two_views(online: Tensor) -> tuple[Tensor, Tensor]:
    """Compare each of 2N views with its partner, and make all ready to be compared with the others.

    Args:
        online: (2, N, D), unnormalised.

    Returns:
        positive: (2N,), cosines, first views first.
        rows: (2N, D), all views, of length 1.

    Raises:
        ValueError: There are not two views, or there is no second image.
    """
    if len(online) != 2:
        raise InvalidValue(f"the loss compares 2 views, got {len(online)}; set batching.views=2")
    refuse_lone_image(online.shape[1])
    views = unit(online)
    return (views[0] * views[1]).sum(dim=-1).repeat(2), views.flatten(0, 1)


def compare_all(
    rows: Tensor,
    scales: tuple[float, ...],
    apart: int | None = None,
    classes: Tensor | None = None,
    weigh: bool = False,
) -> Comparison:
    """What each row finds in the others; from `TILED_FROM` rows on in tiles, in memory proportional to their
    number.

    Args:
        rows: (M, D), of length 1.
        scales: K factors of the cosines, 0 or more: 1 / temperature.
        apart: Rows i and i + apart are views of one image and leave each other out, as each row leaves out itself;
            None where only the row itself is left out.
        classes: (M,) any numbers, or None: a class to each row.
        weigh: Whether to give ``weighted``.
    """
    form = plain_comparison if len(rows) < TILED_FROM else tiled_comparison
    return form(rows, scales, apart, classes, weigh)


def plain_comparison(
    rows: Tensor, scales: tuple[float, ...], apart: int | None, classes: Tensor | None, weigh: bool
) -> Comparison:
    """`compare_all` on the whole matrix."""
    cosine = rows @ rows.T
    left_out = torch.zeros_like(cosine)
    for distance in (0,) if apart is None else (0, apart, -apart):
        left_out.diagonal(distance).fill_(-torch.inf)
    scaled = [torch.add(left_out, cosine, alpha=scale) for scale in scales]
    log_sums = torch.stack([exponents.logsumexp(dim=1) for exponents in scaled])
    with torch.no_grad():
        others = cosine + left_out
        nearest = others.amax(dim=1)
        nearest_of_another_class = nearest
        if classes is not None:
            nearest_of_another_class = others.masked_fill(classes[:, None] == classes[None, :], -2).amax(dim=1)
        weighted = (scaled[0].softmax(dim=1) * cosine).sum(dim=1) if weigh else None
    return Comparison(log_sums, nearest, nearest_of_another_class, weighted)


def refuse_lone_image(n: int) -> None:
    """Raises ValueError for a batch in which no image has another one to be told from."""
    if n < 2:
        raise InvalidValue(f"the loss tells the images of a batch apart, got {n}; give batching.batch_size at least 2")


def different_views(n_online: int, n_target: int) -> list[tuple[int, int]]:
    """Ordered pairs (i, j) of an online view and the target of another view.

    Raises:
        ValueError: There is no such pair.
    """
    pairs = [(i, j) for i in range(n_online) for j in range(n_target) if i != j]
    if not pairs:
        raise InvalidValue(
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
