"""SwAV: swapped assignments between views."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.sinkhorn import refuse_sinkhorn, sinkhorn
from ssl_runner.runtime.step_context import StepContext


class SwAV(Loss):
    """Predicts one view's code from another's scores (Caron et al. 2020, arXiv:2006.09882, eq. 1 to 5).

    Embeddings are scores here: cosines of an image with K prototypes. The codes of each global view come from a few
    Sinkhorn-Knopp iterations without gradient, which assign the images evenly to the prototypes. Every other view
    predicts them with a softmax. Scores of queued embeddings, if there are any, only take part in that assignment; the
    authors keep a queue for each global view, whereas here all views share one. Sinkhorn-Knopp runs in log space, so
    that a small epsilon does not overflow (the authors' code exponentiates scores / epsilon).

    Args:
        temperature: Temperature of the predictions, above 0.
        epsilon: Temperature of the codes, above 0; a larger one makes them softer.
        sinkhorn_iterations: At least 1.
    """

    views = 2
    needs = frozenset({"prototypes"})
    uses = frozenset({"memory_bank"})

    def __init__(self, temperature: float, epsilon: float, sinkhorn_iterations: int) -> None:
        super().__init__()
        if not temperature > 0:
            raise InvalidValue(f"temperature={temperature}; it divides scores, so give a number above 0, say 0.1")
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
        """Codes (G, B, K), each summing to 1, of scores (G, B, K) that are assigned together with the memory bank (M,
        K).
        """
        images = scores.shape[1]
        if memory_bank is not None:
            scores = torch.cat([scores, memory_bank.to(scores.dtype).expand(len(scores), -1, -1)], dim=1)
        return sinkhorn(scores / self.epsilon, self.sinkhorn_iterations)[:, :images].exp()
