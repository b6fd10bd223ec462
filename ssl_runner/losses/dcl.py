"""DCL and DCLW: contrastive losses without the positive in the denominator."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, softmax_negatives
from ssl_runner.losses.similarity import anchor_metrics, compare_all, refuse_temperature, two_views
from ssl_runner.runtime.step_context import StepContext


class DCL(Loss):
    """Decoupled contrastive loss (Yeh et al. 2022, arXiv:2110.06848, eq. 6), and its weighted form DCLW.

    ``-w s+/T + log sum e^(s-/T)`` over the 2N - 2 negatives. This is NT-Xent without the positive in the denominator,
    so its value may be negative. DCL has w = 1. DCLW has ``w = 2 - e^(s+/sigma) / mean e^(s+/sigma)``, the negative von
    Mises-Fisher weighting, which gives less weight to pairs that are already close; the larger sigma is, the closer it
    is to DCL.

    Deviations: the mean over the 2N anchors instead of the paper's sum, and no gradient through the weights.

    Args:
        temperature: Above 0; divides the cosine similarities.
        sigma: Above 0 for DCLW; None for DCL.
    """

    views = 2
    most_views = 2

    def __init__(self, temperature: float, sigma: float | None) -> None:
        super().__init__()
        refuse_temperature(temperature)
        if sigma is not None and not sigma > 0:
            raise InvalidValue(f"sigma={sigma}; it divides similarities, so give a number above 0, say 0.5, or null")
        self.temperature = temperature
        self.sigma = sigma

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, N, D), unnormalised."""
        positive, rows = two_views(embeddings.online)
        found = compare_all(rows, (1 / self.temperature,), apart=len(rows) // 2)
        metrics = anchor_metrics(positive, found.nearest[:, None], 1.0)
        attraction = positive / self.temperature
        if self.sigma is not None:
            weight = self.weight(positive.detach())
            attraction = weight * attraction
            metrics["least_weight"] = weight.min()
        return (found.log_sums[0] - attraction).mean(), metrics

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the views of other images."""
        return softmax_negatives(embeddings.online, 1 / self.temperature)

    def weight(self, similarity: Tensor) -> Tensor:
        """Weights of the positives (2N,), computed from their cosines, each of which occurs twice. Their mean is 1."""
        assert self.sigma is not None
        return 2 - len(similarity) * torch.softmax(similarity / self.sigma, dim=0)
