"""Ring: a contrastive loss with negatives that are neither too easy nor too hard."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, shares, softmax_negatives
from ssl_runner.losses.similarity import anchor_metrics, refuse_temperature, two_views
from ssl_runner.runtime.step_context import StepContext


class Ring(Loss):
    """Conditional negative sampling, ring discrimination (Wu et al. 2021, arXiv:2010.02037).

    It is NT-Xent whose sum only includes the negatives between two quantiles of similarity to the anchor: those below
    are too easy to teach anything, those above probably belong to the anchor's own class. With lower = 0 and upper = 1
    it is NT-Xent; upper = 1 with lower above 0 keeps the hardest negatives, the paper's ball.

    Deviations: quantiles are over the views of a batch, whereas the paper draws from a memory bank; their indices are
    rounded, and at least one negative is kept; the lower quantile is constant, whereas the paper's rises during
    training.

    Args:
        temperature: Above 0; divides the cosine similarities.
        lower: Quantile below which an anchor's negatives, its least similar ones, are left out; in [0, 1).
        upper: Quantile above which its negatives, its most similar ones, are left out; in (lower, 1].
    """

    views = 2
    most_views = 2

    def __init__(self, temperature: float, lower: float, upper: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        if not 0 <= lower < upper <= 1:
            raise InvalidValue(
                f"lower={lower}, upper={upper}; they are quantiles of similarity, so give 0 <= lower < upper <= 1"
            )
        self.temperature = temperature
        self.lower, self.upper = lower, upper

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, N, D), unnormalised."""
        positive, rows = two_views(embeddings.online)
        similarity = rows @ rows.T
        scaled = positive / self.temperature
        kept = (similarity / self.temperature).masked_fill(~self.ring(similarity), -torch.inf)
        loss = (torch.logaddexp(scaled, kept.logsumexp(dim=1)) - scaled).mean()
        return loss, anchor_metrics(positive, others(similarity), 1.0)

    @torch.no_grad()
    def ring(self, similarity: Tensor) -> Tensor:
        """Mask (2N, 2N) of the negatives that are kept, from all cosines."""
        n = len(similarity) - 2
        first = min(round(self.lower * n), n - 1)
        last = max(round(self.upper * n), first + 1)
        order = others(similarity).argsort(dim=1, stable=True)[:, 2:]  # the first two belong to the anchor's own image
        return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, order[:, first:last], True)

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the kept views."""
        found = softmax_negatives(embeddings.online, 1 / self.temperature)
        return Negatives(found.similarity, found.positive, shares(found.weight * self.ring(found.similarity)))


def others(similarity: Tensor) -> Tensor:
    """Cosines (2N, 2N), with -inf where both views belong to one image."""
    image = torch.arange(len(similarity) // 2, device=similarity.device).repeat(2)
    return similarity.masked_fill(image[:, None] == image[None, :], -torch.inf)
