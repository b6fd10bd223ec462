"""Ring: contrast with negatives that are neither easy nor too hard."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, shares, softmax_negatives
from ssl_runner.losses.similarity import anchor_metrics, refuse_temperature, two_views
from ssl_runner.runtime.step_context import StepContext


class Ring(Loss):
    """Conditional negative sampling (Wu et al. 2021, arXiv:2010.02037), ring discrimination.

    NT-Xent whose sum runs over the negatives between two quantiles of similarity to the anchor only: those below are
    too easy to teach anything, those above are likely to be of the anchor's own class. With lower = 0 and upper = 1 it
    is NT-Xent; upper = 1 alone keeps the hardest, the paper's ball.

    Deviations: quantiles are over the views of a batch, not over a memory bank from which the paper draws; their
    indices are rounded, and one negative at least is kept; the lower one is constant, where the paper's rises during
    training.

    Args:
        temperature: Above 0; divides the cosine similarities.
        lower: In [0, 1): the share of an anchor's negatives, the least similar ones, that is left out.
        upper: In (lower, 1]: the share beyond which the most similar ones are left out.
    """

    views = 2
    most_views = 2

    def __init__(self, temperature: float, lower: float, upper: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        if not 0 <= lower < upper <= 1:
            raise InvalidValue(
                f"lower={lower}, upper={upper}, but they are quantiles of similarity; give 0 <= lower < upper <= 1"
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
        """Which negatives are kept: bool (2N, 2N), of all cosines."""
        n = len(similarity) - 2
        first = min(round(self.lower * n), n - 1)
        last = max(round(self.upper * n), first + 1)
        order = others(similarity).argsort(dim=1, stable=True)[:, 2:]  # the first two are of the anchor's own image
        return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, order[:, first:last], True)

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the views that are kept."""
        found = softmax_negatives(embeddings.online, 1 / self.temperature)
        return Negatives(found.similarity, found.positive, shares(found.weight * self.ring(found.similarity)))


def others(similarity: Tensor) -> Tensor:
    """Cosines (2N, 2N), -inf where both views are of one image."""
    image = torch.arange(len(similarity) // 2, device=similarity.device).repeat(2)
    return similarity.masked_fill(image[:, None] == image[None, :], -torch.inf)
