"""The triplet loss, with four ways to choose the triplets."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, counted_negatives, roles
from ssl_runner.losses.pairwise import mean_of, squared_distances
from ssl_runner.runtime.step_context import StepContext

Mining = Literal["batch_all", "batch_hard", "semi_hard", "distance_weighted"]


class Triplet(Loss):
    """``max(0, margin + d(anchor, positive) - d(anchor, negative))`` (Schroff et al. 2015, arXiv:1503.03832, eq. 3).

    Distances are Euclidean, not squared, between L2-normalised embeddings, so they lie in [0, 2]. An anchor without a
    positive or without a negative is ignored. If all embeddings are equal, the loss is exactly the margin, but 0 with
    ``semi_hard``.

    - ``batch_all``: every triplet. The mean is over the triplets with a non-zero loss (Hermans et al. 2017,
      arXiv:1703.07737, sec. 2, "BA != 0"), because otherwise the many easy ones would make the loss vanish.
    - ``batch_hard``: for each anchor, its farthest positive and its nearest negative (the same paper, eq. 5).
    - ``semi_hard``: for each anchor and positive, the nearest negative that is farther away than the positive
      (arXiv:1503.03832, sec. 3.2). A pair without one is left out.
    - ``distance_weighted``: for each anchor and positive, a negative drawn with weight 1 / q(d), the inverse density of
      distances on the sphere (Wu et al. 2017, arXiv:1706.07567, sec. 4). d is clamped to [0.5, 1.4]. The authors' code
      drops negatives beyond 1.4, whereas here they are as likely as those at 1.4, so every anchor has a choice.

    Args:
        margin: In (0, 2].
        mining: Which triplets count.
    """

    needs = frozenset({"labels"})

    def __init__(self, margin: float, mining: Mining) -> None:
        super().__init__()
        if not 0 < margin <= 2:
            raise InvalidValue(
                f"margin={margin}; normalised embeddings are at most 2 apart, so give a number in (0, 2]"
            )
        if mining not in ("batch_all", "batch_hard", "semi_hard", "distance_weighted"):
            raise InvalidValue(f"mining={mining!r} is not one of batch_all, batch_hard, semi_hard, distance_weighted")
        self.margin = margin
        self.mining = mining

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), unnormalised; labels: (B,). Views of an image are positives of each other."""
        online, labels = embeddings.online, embeddings.labels
        assert labels is not None
        labels = labels.repeat(len(online))  # (V B,)
        points = F.normalize(online.to(torch.promote_types(online.dtype, torch.float32)).flatten(0, 1), dim=-1)
        # the derivative of the root is infinite at 0, where two images coincide
        distance = squared_distances(points).clamp_min(1e-12).sqrt()
        same = labels[:, None] == labels[None, :]
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        if self.mining == "batch_all":
            loss, active = self.all_triplets(distance, positive, ~same)
        else:
            chosen, mined = self.mine(distance.detach(), positive, ~same, points.shape[1], context)
            hinge = (self.margin + distance - distance.gather(1, chosen)).relu()
            loss = mean_of(hinge, mined)
            active = mean_of((hinge.detach() > 0).to(hinge.dtype), mined)
        with torch.no_grad():
            metrics = {
                "active_triplets": active,
                "positive_distance": mean_of(distance, positive),
                "negative_distance": mean_of(distance, ~same),
            }
        return loss, metrics

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """In how many of its anchor's triplets with a non-zero loss a negative occurs."""
        points = F.normalize(embeddings.online.flatten(0, 1), dim=-1)
        distance = squared_distances(points).clamp_min(1e-12).sqrt()
        positive, negative = roles(embeddings.online, embeddings.labels)
        if self.mining == "batch_all":
            farther = distance.masked_fill(~positive, torch.inf).sort(dim=1).values
            # the number of positives at least the margin nearer than the negative
            no_cost = torch.searchsorted(farther, distance - self.margin, right=True)
            counts = (positive.sum(dim=1, keepdim=True) - no_cost) * negative
        else:
            chosen, mined = self.mine(distance, positive, negative, points.shape[1], context)
            costs = mined & (self.margin + distance > distance.gather(1, chosen))
            counts = torch.zeros_like(distance).scatter_add_(1, chosen, costs.to(distance.dtype))
        return counted_negatives(embeddings.online, counts.to(distance.dtype), embeddings.labels)

    def all_triplets(self, distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over the triplets with a non-zero loss, and their share, in n^2 memory instead of n^3.

        If an anchor's negatives are sorted by distance, those with a non-zero loss for a given positive come first, and
        running sums give their total.
        """
        nearest = distance.masked_fill(~negative, torch.inf).sort(dim=1).values
        limit = distance + self.margin
        count = torch.searchsorted(nearest.detach(), limit.detach())  # (n, n): negatives nearer than the limit
        sums = F.pad(nearest.masked_fill(nearest.isinf(), 0).cumsum(dim=1), (1, 0)).gather(1, count)
        active = (count * positive).sum()
        candidates = (positive.sum(dim=1) * negative.sum(dim=1)).sum()
        loss = ((count * limit - sums) * positive).sum() / active.clamp_min(1)
        return loss, active.to(distance.dtype) / candidates.clamp_min(1)

    @torch.no_grad()
    def mine(
        self, distance: Tensor, positive: Tensor, negative: Tensor, width: int, context: StepContext
    ) -> tuple[Tensor, Tensor]:
        """The negative chosen for each (anchor, positive), int64 (n, n), and a mask (n, n) of the pairs that count."""
        candidates = distance.masked_fill(~negative, torch.inf)
        mined, last = positive, len(distance) - 1
        if self.mining == "batch_hard":
            farthest = distance.masked_fill(~positive, -1).argmax(dim=1, keepdim=True)
            mined = positive & torch.zeros_like(positive).scatter_(1, farthest, True)
            chosen = candidates.argmin(dim=1, keepdim=True).expand_as(distance)
        elif self.mining == "semi_hard":
            nearest, order = candidates.sort(dim=1)
            farther = torch.searchsorted(nearest, distance.contiguous(), right=True)
            chosen = order.gather(1, farther.clamp_max(last))
        else:
            held = distance.clamp(0.5, 1.4)
            log_weights = (2 - width) * held.log() + (3 - width) / 2 * (-held.square() / 4).log1p()
            log_weights = log_weights.masked_fill(~negative, torch.finfo(distance.dtype).min)
            cumulative = log_weights.softmax(dim=1).cumsum(dim=1)
            draws = torch.rand(distance.shape, generator=context.generator("triplet"), device=context.device)
            chosen = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True).clamp_max(last)
        return chosen, mined & negative.gather(1, chosen)  # anchors without a candidate chose no negative
