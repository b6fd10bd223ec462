"""MoCHi: harder negatives, mixed from the hardest ones in the queue."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.info_nce import contrast, cross_entropy
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, negatives_remembered
from ssl_runner.losses.similarity import anchor_metrics, different_views, refuse_temperature, unit
from ssl_runner.runtime.step_context import StepContext

ROWS = 16  # queries whose mixed pairs are held in memory at a time


class MoCHi(Loss):
    """Hard negative mixing (Kalantidis et al. 2020, arXiv:2010.01028, sec. 4.1 and 4.2).

    It is MoCo's InfoNCE with additional negatives: for each query q, mixtures of the N most similar entries of the
    queue, ``a n_i + (1 - a) n_j`` with a in (0, 1) and ``b q + (1 - b) n_j`` with b in (0, 0.5), normalised again. Like
    the entries, they are negatives without gradient. Without mixtures it is `InfoNCE` with a memory bank.

    Deviations: the paper's first epochs without mixtures are left out; if the memory bank has fewer than N entries, all
    of them are mixed.

    Args:
        temperature: Above 0; divides the cosine similarities.
        hardest: N, the number of nearest entries to mix, at least 1.
        pairs: s, the number of mixtures of two entries, 0 for none.
        with_query: s', the number of mixtures of an entry with the query, 0 for none.
    """

    needs = frozenset({"target", "memory_bank"})
    views = 2

    def __init__(self, temperature: float, hardest: int, pairs: int, with_query: int) -> None:
        super().__init__()
        refuse_temperature(temperature)
        for name, value, least in (("hardest", hardest, 1), ("pairs", pairs, 0), ("with_query", with_query, 0)):
            if value < least:
                raise InvalidValue(f"{name}={value}; it is a number of negatives, so give at least {least}")
        self.temperature = temperature
        self.hardest, self.pairs, self.with_query = hardest, pairs, with_query

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D); target: (G, B, D); memory_bank: (M, D), M >= 0; all unnormalised."""
        assert embeddings.target is not None and embeddings.memory_bank is not None
        online, target = unit(embeddings.online), unit(embeddings.target.detach())
        memory_bank = unit(embeddings.memory_bank.detach())
        generator = context.generator("mochi")
        positives, negatives, mixtures = [], [], []
        for i, j in different_views(len(online), len(target)):
            positive, negative = contrast(online[i], target[j], memory_bank, self.temperature)
            positives.append(positive)
            negatives.append(negative)
            if len(memory_bank):
                mixtures.append(
                    self.mix(online[i], negative * self.temperature, memory_bank, generator) / self.temperature
                )
        positive, negative = torch.cat(positives), torch.cat(negatives)
        metrics = anchor_metrics(positive, negative, self.temperature)
        if mixtures and self.pairs + self.with_query:
            mixed = torch.cat(mixtures)
            metrics["mixed_similarity"] = mixed.detach().mean() * self.temperature
            negative = torch.cat([negative, mixed], dim=1)
        return cross_entropy(positive, negative), metrics

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the memory bank and each query's mixtures of it, none of which are images."""
        assert embeddings.target is not None and embeddings.memory_bank is not None
        online, target, memory_bank = (
            unit(each) for each in (embeddings.online, embeddings.target, embeddings.memory_bank)
        )
        generator, mixed = context.generator("mochi"), []
        if len(memory_bank):
            pairs = different_views(len(online), len(target))
            mixed = [self.mix(online[i], online[i] @ memory_bank.T, memory_bank, generator) for i, _ in pairs]
        return negatives_remembered(online, target, memory_bank, self.temperature, mixed)

    def mix(self, queries: Tensor, similarity: Tensor, memory_bank: Tensor, generator: torch.Generator) -> Tensor:
        """Cosines (B, s + s') of queries (B, D) with their mixtures, given those (B, M) with the memory bank (M, D).

        The cosine of a mixture is the mixture of the cosines divided by its norm, so the mixtures themselves are never
        computed.
        """
        near, entries = similarity.topk(min(self.hardest, len(memory_bank)), dim=1)

        def draw(n: int) -> Tensor:
            return torch.rand(len(queries), n, generator=generator, device=queries.device, dtype=queries.dtype)

        def pick(n: int) -> Tensor:
            return (draw(n) * near.shape[1]).long().clamp_max(near.shape[1] - 1)

        first, second, share = pick(self.pairs), pick(self.pairs), draw(self.pairs)
        between = inner(memory_bank, entries.gather(1, first), entries.gather(1, second))
        mixed = mixture(near.gather(1, first), near.gather(1, second), between, share)
        beside = near.gather(1, pick(self.with_query))
        itself = (queries * queries.detach()).sum(dim=1, keepdim=True)
        return torch.cat([mixed, mixture(itself, beside, beside, draw(self.with_query) / 2)], dim=1)


def mixture(first: Tensor, second: Tensor, between: Tensor, share: Tensor) -> Tensor:
    """Cosine with ``share x + (1 - share) y``, given those with x and y, and the one between x and y, which is held
    constant.
    """
    rest, between = 1 - share, between.detach()
    squared = share.square() + rest.square() + 2 * share * rest * between
    return (share * first + rest * second) / squared.clamp_min(1e-12).sqrt()


def inner(points: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Inner products (B, s) of points (M, D) at indices (B, s) and (B, s), computed a few rows at a time."""
    indices = zip(first.split(ROWS), second.split(ROWS), strict=True)
    return torch.cat([(points[one] * points[other]).sum(dim=-1) for one, other in indices])
