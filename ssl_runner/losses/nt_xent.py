"""NT-Xent, the loss of SimCLR."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.clock import Clock
from ssl_runner.losses.loss import Embeddings, Loss


class NTXent(Loss):
    """NT-Xent (Chen et al. 2020, arXiv:2002.05709, eq. 1): cross-entropy of each view's partner among 2N - 1.

    Computed in float32 at least, because exp(1 / temperature) overflows half precision below 0.09.

    Args:
        temperature: Above 0; divides the cosine similarities.
    """

    views = 2
    most_views = 2

    def __init__(self, temperature: float) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}, but it divides similarities; give a number above 0, say 0.5")
        self.temperature = temperature

    def forward(self, embeddings: Embeddings, clock: Clock) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, N, D), unnormalised."""
        online = embeddings.online
        if len(online) != 2:
            raise ValueError(f"NT-Xent compares 2 views, got {len(online)}; set batching.views=2")
        online = F.normalize(online.to(torch.promote_types(online.dtype, torch.float32)), dim=-1)
        flat = online.flatten(0, 1)  # (2N, D): first views, then second
        similarity = flat @ flat.T / self.temperature
        itself = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
        similarity = similarity.masked_fill(itself, -torch.inf)
        positive = (online[0] * online[1]).sum(dim=-1).repeat(2) / self.temperature
        loss = (similarity.logsumexp(dim=-1) - positive).mean()
        with torch.no_grad():
            partner = torch.arange(len(flat), device=flat.device).roll(online.shape[1])
            hits = similarity.argmax(dim=-1) == partner
            metrics = {
                "contrastive_accuracy": hits.float().mean(),
                "positive_similarity": positive.mean() * self.temperature,
            }
        return loss, metrics
