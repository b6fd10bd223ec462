"""SwAV: swapped assignments between views."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.sinkhorn import refuse_sinkhorn, sinkhorn
from ssl_runner.runtime.step_context import StepContext


class SwAV(Loss):
    """Predict one view's code from another's scores (Caron et al. 2020, arXiv:2006.09882, eq. 1 to 5).

    Embeddings here are scores: cosines of an image with K prototypes. The codes of each global view come from a few
    Sinkhorn-Knopp iterations without gradient, which share the images out evenly over the prototypes; every other view
    predicts them by a softmax. Scores of queued embeddings, if there are any, take part in the sharing out alone; the
    authors keep a queue for each global view, here one serves all. Sinkhorn runs on logarithms, so that a small
    epsilon does not overflow (the authors' code exponentiates scores / epsilon).

    Args:
        temperature: Above 0: of the predictions.
        epsilon: Above 0: of the codes; greater is softer.
        sinkhorn_iterations: At least 1.
    """

    views = 2
    needs = frozenset({"prototypes"})
    uses = frozenset({"memory_bank"})

    def __init__(self, temperature: float, epsilon: float, sinkhorn_iterations: int) -> None:
        super().__init__()
        if not temperature > 0:
            raise InvalidValue(f"temperature={temperature}, but it divides scores; give a number above 0, say 0.1")
        refuse_sinkhorn(epsilon, sinkhorn_iterations)
        self.temperature, self.epsilon, self.sinkhorn_iterations = temperature, epsilon, sinkhorn_iterations

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, K), global views first, and memory_bank (M, K) or None: cosines with the prototypes."""
        scores = embeddings.online.to(torch.promote_types(embeddings.online.dtype, torch.float32))
        views, images, _ = scores.shape
        if views < 2:
            raise InvalidValue("SwAV predicts one view's code from another, got 1 view; set batching.views=2")
        count = views if embeddings.global_views is None else embeddings.global_views
        codes = self.codes(scores[:count].detach(), embeddings.memory_bank)
        log_predictions = (scores / self.temperature).log_softmax(dim=-1)
        cross_entropy = -torch.einsum("gbk,vbk->gv", codes, log_predictions) / images
        swapped = cross_entropy.masked_fill(torch.eye(count, views, dtype=torch.bool, device=scores.device), 0)
        loss = swapped.sum() / (count * (views - 1))
        with torch.no_grad():
            usage = log_predictions.exp().mean(dim=(0, 1))
            metrics = {
                "prototypes_in_use": torch.special.entr(usage).sum().exp(),  # perplexity: 1 to K
                "code_entropy": torch.special.entr(codes).sum(dim=-1).mean(),
            }
        return loss, metrics

    @torch.no_grad()
    def codes(self, scores: Tensor, memory_bank: Tensor | None) -> Tensor:
        """Codes (G, B, K), each summing to 1, of scores (G, B, K) shared out together with the memory bank (M, K)."""
        images = scores.shape[1]
        if memory_bank is not None:
            scores = torch.cat([scores, memory_bank.to(scores.dtype).expand(len(scores), -1, -1)], dim=1)
        return sinkhorn(scores / self.epsilon, self.sinkhorn_iterations)[:, :images].exp()
