"""Cosine similarities between views: the shared part of the contrastive losses."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.tiled import Comparison, tiled_comparison

# Number of rows from which tiles are faster than the whole matrix. With fewer, the result can be differentiated twice.
TILED_FROM = 512


def unit(embeddings: Tensor) -> Tensor:
    """L2-normalises the last dimension, in at least float32: exp(1 / temperature) overflows half precision."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


def refuse_temperature(temperature: float) -> None:
    """Raises ValueError unless the temperature is above 0."""
    if not temperature > 0:
        raise InvalidValue(f"temperature={temperature}; it divides similarities, so give a number above 0, say 0.1")


def two_views(online: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of each of 2N views with its partner, and the normalised rows for comparing them with the others.

    Args:
        online: (2, N, D), unnormalised.

    Returns:
        positive: (2N,), cosines, first views first.
        rows: (2N, D), all views, of length 1.

    Raises:
        ValueError: The number of views is not two, or there is only one image.
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
    """Compares each row with the others. From `TILED_FROM` rows on it uses tiles, in memory proportional to their
    number.

    Args:
        rows: (M, D), of length 1.
        scales: K factors of the cosines, 0 or more: 1 / temperature.
        apart: Rows i and i + apart are views of one image and are not compared with each other, just as a row is not
            compared with itself. None if only the row itself is left out.
        classes: (M,), a number for the class of each row, or None.
        weigh: Whether to compute ``weighted``.
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
    """Raises ValueError for a batch with fewer than two images."""
    if n < 2:
        raise InvalidValue(
            f"the loss compares different images of a batch, got {n}; set batching.batch_size to at least 2"
        )


def different_views(n_online: int, n_target: int) -> list[tuple[int, int]]:
    """Ordered pairs (i, j) of an online view and the target of another view.

    Raises:
        ValueError: There is no such pair.
    """
    pairs = [(i, j) for i in range(n_online) for j in range(n_target) if i != j]
    if not pairs:
        raise InvalidValue(
            f"the loss compares each view with the target of another view, got {n_online} online and {n_target} target "
            "views; set batching.views=2"
        )
    return pairs


@torch.no_grad()
def anchor_metrics(positive: Tensor, negative: Tensor, temperature: float) -> dict[str, Tensor]:
    """How often the positive (n,) exceeds all negatives (n, m) of its anchor, and the mean cosine of the positives."""
    return {
        "contrastive_accuracy": (negative < positive[:, None]).all(dim=1).float().mean(),
        "positive_similarity": positive.mean() * temperature,
    }
