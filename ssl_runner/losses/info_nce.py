"""InfoNCE with targets of a second branch, the loss of MoCo."""

import torch
from torch import Tensor

from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, negatives_across, negatives_remembered
from ssl_runner.losses.similarity import anchor_metrics, different_views, refuse_lone_image, refuse_temperature, unit
from ssl_runner.runtime.step_context import StepContext


class InfoNCE(Loss):
    """InfoNCE (van den Oord et al. 2018, arXiv:1807.03748, eq. 4) of online views against targets of other views.

    With a memory bank, its entries are the only negatives, as in MoCo (He et al. 2020, arXiv:1911.05722, eq. 1) and
    MoCo v2 (arXiv:2003.04297); as long as it is empty, the loss is 0. Without a memory bank, the negatives are the
    targets of the other images of the batch, as in MoCo v3 (Chen et al. 2021, arXiv:2104.02057, alg. 1).

    The loss is the mean over all ordered pairs of an online view and the target of another view. One online view and
    two targets give MoCo's one-sided loss, two and two the symmetrised one. Deviation: MoCo v3 adds the two directions
    and multiplies by 2T, so its loss is 4T times this one; the scale is left to the learning rate.

    Args:
        temperature: Above 0; divides the cosine similarities.
    """

    needs = frozenset({"target"})
    uses = frozenset({"memory_bank"})
    views = 2

    def __init__(self, temperature: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        self.temperature = temperature

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D); target: (G, B, D); memory_bank: (M, D), M >= 0, or None; all unnormalised."""
        assert embeddings.target is not None
        online, target = unit(embeddings.online), unit(embeddings.target.detach())
        memory_bank = None if embeddings.memory_bank is None else unit(embeddings.memory_bank.detach())
        pairs = different_views(len(online), len(target))
        compared = [contrast(online[i], target[j], memory_bank, self.temperature) for i, j in pairs]
        positive = torch.cat([positive for positive, _ in compared])
        negative = torch.cat([negative for _, negative in compared])
        return cross_entropy(positive, negative), anchor_metrics(positive, negative, self.temperature)

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the memory bank, whose entries are not images, or over the targets of other images."""
        assert embeddings.target is not None
        online, target = unit(embeddings.online), unit(embeddings.target)
        if embeddings.memory_bank is None:
            return negatives_across(online, target, self.temperature)
        return negatives_remembered(online, target, unit(embeddings.memory_bank), self.temperature, ())


def contrast(queries: Tensor, keys: Tensor, memory_bank: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Compares each query with its key, and with the memory bank or, if there is none, with the other keys.

    Args:
        queries: (B, D), normalised.
        keys: (B, D), normalised.
        memory_bank: (M, D), normalised, or None.
        temperature: Divides the cosines.

    Returns:
        positive: (B,).
        negative: (B, M), or (B, B) with -inf on the diagonal.

    Raises:
        ValueError: There is no other key.
    """
    positive = (queries * keys).sum(dim=-1) / temperature
    if memory_bank is not None:
        return positive, queries @ memory_bank.T / temperature
    refuse_lone_image(len(keys))
    itself = torch.eye(len(keys), dtype=torch.bool, device=keys.device)
    return positive, (queries @ keys.T / temperature).masked_fill(itself, -torch.inf)


def cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of -log(e^positive / (e^positive + sum e^negative)); positive: (n,), negative: (n, m)."""
    return (torch.cat([positive[:, None], negative], dim=1).logsumexp(dim=1) - positive).mean()
