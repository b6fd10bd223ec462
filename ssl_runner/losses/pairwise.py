"""The pairwise margin loss, with hard negative mining."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, counted_negatives, roles
from ssl_runner.runtime.step_context import StepContext

Mining = Literal["all", "hardest", "semi_hard"]


class Pairwise(Loss):
    """Contrastive loss over all pairs of a batch (Hadsell, Chopra, LeCun 2006, CVPR, eq. 4).

    ``y d^2 + (1 - y) max(0, margin - d)^2``, where y = 1 for two images of one class. The mean over positive pairs and
    the mean over mined negative pairs are computed separately and added, so that the many negatives do not drown out
    the positives (the paper sums over pairs; its factor 1/2 on both terms is left out). Distances are Euclidean between
    L2-normalised embeddings, so they lie in [0, 2].

    Mining chooses the negatives; all positives are used.

    - ``all``: every negative pair.
    - ``hardest``: the nearest negative of each anchor.
    - ``semi_hard``: for each anchor and positive, the nearest negative that is farther away than the positive (Schroff
      et al. 2015, arXiv:1503.03832, sec. 3.2). A pair without such a negative counts 0.

    Args:
        margin: In (0, 2]. Negatives farther apart than this cost nothing.
        mining: Which negatives count.
    """

    needs = frozenset({"labels"})

    def __init__(self, margin: float, mining: Mining) -> None:
        super().__init__()
        if not 0 < margin <= 2:
            raise InvalidValue(
                f"margin={margin}; normalised embeddings are at most 2 apart, so give a number in (0, 2]"
            )
        if mining not in ("all", "hardest", "semi_hard"):
            raise InvalidValue(f"mining={mining!r} is not one of all, hardest, semi_hard")
        self.margin = margin
        self.mining = mining

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), unnormalised; labels: (B,). Views of an image are positives of each other."""
        online, labels = embeddings.online, embeddings.labels
        assert labels is not None
        labels = labels.repeat(len(online))  # (V B,)
        online = online.to(torch.promote_types(online.dtype, torch.float32)).flatten(0, 1)
        squared = squared_distances(F.normalize(online, dim=-1))
        same = labels[:, None] == labels[None, :]
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        attraction = mean_of(squared, positive)
        # the derivative of the root is infinite at 0, where two images of different classes coincide
        distance = squared.clamp_min(1e-12).sqrt()
        hinge = (self.margin - distance).clamp_min(0).square()
        weights = self.negative_weights(distance.detach(), positive, ~same)
        repulsion = (hinge * weights).sum() / weights.sum().clamp_min(1)
        with torch.no_grad():
            metrics = {
                "positive_distance": mean_of(distance, positive),
                "negative_distance": mean_of(distance, ~same),
                "mined_distance": (distance * weights).sum() / weights.sum().clamp_min(1),
                "active_negatives": mean_of((distance < self.margin).to(distance.dtype), ~same),
            }
        return attraction + repulsion, metrics

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """How often a negative was mined, times its distance to the margin. Negatives beyond the margin have 0."""
        points = F.normalize(embeddings.online.flatten(0, 1), dim=-1)
        distance = squared_distances(points).clamp_min(1e-12).sqrt()
        positive, negative = roles(embeddings.online, embeddings.labels)
        gap = (self.margin - distance).clamp_min(0)
        counts = self.negative_weights(distance, positive, negative) * gap
        return counted_negatives(embeddings.online, counts, embeddings.labels)

    @torch.no_grad()
    def negative_weights(self, distance: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """How often each pair (i, j) of an anchor i and a negative j was mined, as floats (n, n)."""
        if self.mining == "all":
            return negative.to(distance.dtype)
        candidates = distance.masked_fill(~negative, torch.inf)
        if self.mining == "hardest":
            chosen = candidates.argmin(dim=1, keepdim=True)
            counts = torch.zeros_like(distance).scatter_(1, chosen, 1.0)
        else:
            nearest, order = candidates.sort(dim=1)
            place = torch.searchsorted(nearest, distance.contiguous(), right=True)  # (n, n): the first that is farther
            place = place.clamp_max(len(distance) - 1)
            chosen = order.gather(1, place)
            counts = torch.zeros_like(distance).scatter_add_(1, chosen, positive.to(distance.dtype))
        return counts * negative  # an anchor without a candidate chose one that is not a negative


def squared_distances(points: Tensor) -> Tensor:
    """Squared distances (n, n), at least 0, of points (n, d). A matrix product, so it needs no n x n x d memory."""
    norms = points.square().sum(dim=1)
    return (norms[:, None] + norms[None, :] - 2 * points @ points.T).clamp_min(0)


def mean_of(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the marked values, or 0 if none is marked."""
    return (values * mask).sum() / mask.sum().clamp_min(1)
