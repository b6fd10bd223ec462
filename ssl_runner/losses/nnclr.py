"""NNCLR: the nearest neighbour in a support set as the positive."""

import torch
from torch import Tensor

from ssl_runner.losses.info_nce import contrast, cross_entropy
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, negatives_across
from ssl_runner.losses.similarity import anchor_metrics, different_views, refuse_temperature, unit
from ssl_runner.runtime.step_context import StepContext


class NNCLR(Loss):
    """Nearest-neighbour contrastive loss (Dwibedi et al. 2021, arXiv:2104.14548, eq. 3, with predictions, sec. 3.2).

    InfoNCE between the nearest neighbour, in the memory of earlier projections, of one view's projection and the
    prediction of another view; the negatives are the predictions of the batch's other images. The mean over ordered
    pairs of different views. While the memory bank is empty, a projection is its own neighbour. A memory bank that
    holds the projections themselves makes it InfoNCE with the roles of queries and keys exchanged.

    Args:
        temperature: Above 0; divides the cosine similarities.
    """

    needs = frozenset({"target", "memory_bank"})
    views = 2

    def __init__(self, temperature: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        self.temperature = temperature

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: predictions (V, B, D); target: projections (G, B, D), whose gradient is cut; memory_bank: (M, D)."""
        assert embeddings.target is not None and embeddings.memory_bank is not None
        online, target = unit(embeddings.online), unit(embeddings.target.detach())
        memory_bank = unit(embeddings.memory_bank.detach())
        found, neighbours = nearest(target, memory_bank)
        pairs = different_views(len(online), len(target))
        compared = [contrast(neighbours[j], online[i], None, self.temperature) for i, j in pairs]
        positive = torch.cat([positive for positive, _ in compared])
        negative = torch.cat([negative for _, negative in compared])
        metrics = anchor_metrics(positive, negative, self.temperature)
        metrics["neighbour_similarity"] = (target * neighbours).sum(dim=-1).mean()
        labels, memory_bank_labels = embeddings.labels, embeddings.memory_bank_labels
        if found is not None and labels is not None and memory_bank_labels is not None:
            # watched only: labels have no part in the loss
            metrics["neighbour_accuracy"] = (memory_bank_labels[found] == labels).float().mean()
        return cross_entropy(positive, negative), metrics

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the predictions of other images; a projection's neighbour stands for its anchor."""
        assert embeddings.target is not None and embeddings.memory_bank is not None
        neighbours = nearest(unit(embeddings.target), unit(embeddings.memory_bank))[1]
        return negatives_across(neighbours, unit(embeddings.online), self.temperature)


def nearest(target: Tensor, memory_bank: Tensor) -> tuple[Tensor | None, Tensor]:
    """Places (G, B) in the memory (M, D) of the nearest neighbours of (G, B, D), and these (G, B, D), all normalised.

    Without a memory bank each is its own, and there are no indices.
    """
    if not len(memory_bank):
        return None, target
    found = (target @ memory_bank.T).argmax(dim=-1)
    return found, memory_bank[found]
