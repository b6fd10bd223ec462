"""NT-Xent, the loss of SimCLR."""

import torch
from torch import Tensor

from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, softmax_negatives
from ssl_runner.losses.similarity import anchor_metrics, compare_all, refuse_temperature, two_views
from ssl_runner.runtime.step_context import StepContext


class NTXent(Loss):
    """NT-Xent (Chen et al. 2020, arXiv:2002.05709, eq. 1): cross-entropy of finding each view's partner among 2N - 1
    views.

    Computed in at least float32, because exp(1 / temperature) overflows half precision below 0.09.

    Args:
        temperature: Above 0; divides the cosine similarities.
    """

    views = 2
    most_views = 2

    def __init__(self, temperature: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        self.temperature = temperature

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, N, D), unnormalised."""
        positive, rows = two_views(embeddings.online)
        scaled = positive / self.temperature
        found = compare_all(rows, (1 / self.temperature,), apart=len(rows) // 2)
        loss = (torch.logaddexp(scaled, found.log_sums[0]) - scaled).mean()
        return loss, anchor_metrics(positive, found.nearest[:, None], 1.0)

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the views of other images."""
        return softmax_negatives(embeddings.online, 1 / self.temperature)
