"""NT-Xent that asks more of positive pairs."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class MarginNTXent(Loss):
    """NT-Xent (Chen et al. 2020, arXiv:2002.05709, eq. 1) with the margin of CosFace (arXiv:1801.09414, eq. 4).

    The cosine of a positive pair must exceed those of the negatives by ``margin``; with 0 it is NT-Xent.

    Args:
        temperature: Divides the cosines; above 0.
        margin: Taken off the cosine of a positive pair; in [0, 2).
    """

    views = 2
    most_views = 2

    def __init__(self, temperature: float, margin: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise InvalidValue(f"temperature={temperature}; give a number above 0")
        if not 0 <= margin < 2:
            raise InvalidValue(f"margin={margin}; give a number in [0, 2)")
        self.temperature, self.margin = temperature, margin

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, B, D), unnormalised. Gives a scalar, and the mean cosine of positive pairs."""
        points = torch.nn.functional.normalize(embeddings.online.float(), dim=-1).flatten(0, 1)  # (2B, D)
        n = len(points) // 2
        positive = torch.arange(2 * n, device=points.device).roll(n)
        cosines = points @ points.T
        margins = torch.zeros_like(cosines).scatter_(1, positive[:, None], self.margin)
        logits = (cosines - margins) / self.temperature
        logits.fill_diagonal_(-torch.inf)
        similarity = cosines.gather(1, positive[:, None]).mean()
        return torch.nn.functional.cross_entropy(logits, positive), {"positive_similarity": similarity.detach()}
