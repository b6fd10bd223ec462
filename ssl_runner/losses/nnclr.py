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

    InfoNCE between one view's nearest neighbour and the prediction of another view. The neighbour is that of the view's
    projection in the memory bank of earlier projections; the negatives are the predictions of the other images of the
    batch. The loss is the mean over ordered pairs of different views. While the memory bank is empty, a projection is
    its own neighbour. If the memory bank holds the projections themselves, this is InfoNCE with the roles of queries
    and keys exchanged.

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
        """online: predictions (V, B, D); target: projections (G, B, D), used without gradient; memory_bank: (M, D)."""
        assert embeddings.target is not None and embeddings.memory_bank is not None
        online, target = unit(embeddings.online), unit(embeddings.target.detach())
        memory_bank = unit(embeddings.memory_bank.detach())
        indices, neighbours = nearest(target, memory_bank)
        pairs = different_views(len(online), len(target))
        compared = [contrast(neighbours[j], online[i], None, self.temperature) for i, j in pairs]
        positive = torch.cat([positive for positive, _ in compared])
        negative = torch.cat([negative for _, negative in compared])
        metrics = anchor_metrics(positive, negative, self.temperature)
        metrics["neighbour_similarity"] = (target * neighbours).sum(dim=-1).mean()
        labels, memory_bank_labels = embeddings.labels, embeddings.memory_bank_labels
        if indices is not None and labels is not None and memory_bank_labels is not None:
            # a diagnostic only: the loss does not use labels
            metrics["neighbour_accuracy"] = (memory_bank_labels[indices] == labels).float().mean()
        return cross_entropy(positive, negative), metrics

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the predictions of other images, where the anchor is represented by its projection's
        neighbour.
        """
        assert embeddings.target is not None and embeddings.memory_bank is not None
        neighbours = nearest(unit(embeddings.target), unit(embeddings.memory_bank))[1]
        return negatives_across(neighbours, unit(embeddings.online), self.temperature)


def nearest(target: Tensor, memory_bank: Tensor) -> tuple[Tensor | None, Tensor]:
    """Indices (G, B) in the memory bank (M, D) of the nearest neighbours of targets (G, B, D), and the neighbours
    themselves.

    All are normalised. If the memory bank is empty, each target is its own neighbour, and there are no indices.
    """
    if not len(memory_bank):
        return None, target
    indices = (target @ memory_bank.T).argmax(dim=-1)
    return indices, memory_bank[indices]
