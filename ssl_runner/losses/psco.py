"""PsCo: contrastive learning with pseudo-labelled entries of a queue."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.info_nce import contrast, cross_entropy
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, shares
from ssl_runner.losses.similarity import anchor_metrics, different_views, refuse_temperature, unit
from ssl_runner.losses.sinkhorn import refuse_sinkhorn, sinkhorn
from ssl_runner.runtime.step_context import StepContext


class PsCo(Loss):
    """Pseudo-supervised contrast (Jang et al. 2023, arXiv:2303.00996, sec. 3.2): ``L = L_MoCo + L_PsCo``.

    Each batch of B images is a B-way K-shot task whose queries are the online views q_i. The shots of an image are
    found in the memory bank by its target z_i, the teacher's embedding of another view: they are the K entries m with
    the largest ``A~_im``, where A~ is the Sinkhorn-Knopp assignment of ``exp(z_i m / epsilon)``, in which every entry
    has the same total and every image 1. Let S be the shots of all images, where a shot that two images share counts
    twice, and S_i those of image i. Then

        L_PsCo = mean_i -1/K sum_{s in S_i} log(e^{q_i s / T'} / sum_{s in S} e^{q_i s / T'}),

    and L_MoCo is `InfoNCE` of q_i against z_i, with the memory bank as negatives. No gradient passes through targets,
    memory bank or assignment. If the memory bank has fewer than K entries, all of them are shots; as long as it is
    empty, the loss is 0.

    Deviations: the mean over all ordered pairs of an online view and the target of another view, whereas the authors
    use one direction with two kinds of augmentation (one online view and two targets give that); Sinkhorn-Knopp in log
    space. The authors classify by projections and predictions; here features are compared, as for every encoder.

    Args:
        temperature: T of L_MoCo, above 0; divides the cosine similarities.
        shot_temperature: T' of L_PsCo, above 0.
        shots: K, at least 1. In the authors' README, 1 on Omniglot and 4 on miniImageNet.
        epsilon: Temperature of the assignment, above 0; a larger one makes it softer.
        sinkhorn_iterations: At least 1.
    """

    needs = frozenset({"target", "memory_bank"})
    views = 2

    def __init__(
        self, temperature: float, shot_temperature: float, shots: int, epsilon: float, sinkhorn_iterations: int
    ) -> None:
        super().__init__()
        refuse_temperature(temperature)
        if not shot_temperature > 0:
            raise InvalidValue(
                f"shot_temperature={shot_temperature}; it divides similarities, so give a number above 0, say 1.0"
            )
        if shots < 1:
            raise InvalidValue(f"shots={shots}; every pseudo-class needs some, so give at least 1")
        refuse_sinkhorn(epsilon, sinkhorn_iterations)
        self.temperature, self.shot_temperature, self.shots = temperature, shot_temperature, shots
        self.epsilon, self.sinkhorn_iterations = epsilon, sinkhorn_iterations

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D); target: (G, B, D); memory_bank: (M, D), M >= 0; all unnormalised."""
        online, target, memory_bank = normalised(embeddings)
        indices = self.assign(target, memory_bank)
        pairs = different_views(len(online), len(target))
        compared = [contrast(online[i], target[j], memory_bank, self.temperature) for i, j in pairs]
        positive = torch.cat([positive for positive, _ in compared])
        negative = torch.cat([negative for _, negative in compared])
        loss, metrics = cross_entropy(positive, negative), anchor_metrics(positive, negative, self.temperature)
        if len(memory_bank):
            tasks = [supervised_contrast(online[i] / self.shot_temperature, memory_bank[indices[j]]) for i, j in pairs]
            loss = loss + torch.stack(tasks).mean()
            metrics |= shot_metrics(target, memory_bank, indices)
        return loss, metrics

    @torch.no_grad()
    def assign(self, target: Tensor, memory_bank: Tensor) -> Tensor:
        """Indices (G, B, K), in the memory bank (M, D), of the shots of targets (G, B, D); both are normalised."""
        if not len(memory_bank):
            return torch.empty(*target.shape[:2], 0, dtype=torch.int64, device=target.device)
        assignment = sinkhorn(target @ memory_bank.T / self.epsilon, self.sinkhorn_iterations)
        return assignment.topk(min(self.shots, len(memory_bank)), dim=-1).indices

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """The memory bank, whose entries are not images. An anchor's own shots repel it if L_MoCo outweighs L_PsCo."""
        online, target, memory_bank = normalised(embeddings)
        indices, similarity = self.assign(target, memory_bank), online @ memory_bank.T
        slope, positive = torch.zeros_like(similarity), online.new_zeros(online.shape[:2])
        pairs = different_views(len(online), len(target))
        for i, j in pairs:
            pair = (online[i] * target[j]).sum(dim=-1)
            positive[i] += pair / sum(view == i for view, _ in pairs)
            if len(memory_bank):
                slope[i] += self.slope(pair, similarity[i], indices[j])
        weight = shares(slope.clamp_min(0).flatten(0, 1))
        return Negatives(similarity.flatten(0, 1), positive.flatten(), weight, remembered=len(memory_bank))

    def slope(self, positive: Tensor, similarity: Tensor, indices: Tensor) -> Tensor:
        """Derivative (B, M) of each anchor's loss with respect to its cosines with the memory bank. Entries above 0
        repel it.

        Args:
            positive: Cosines (B,) with the targets.
            similarity: Cosines (B, M) with the memory bank.
            indices: Indices (B, K) of the shots.
        """
        everything = torch.cat([positive[:, None], similarity], dim=1)
        contrasted = (everything / self.temperature).softmax(dim=1)[:, 1:] / self.temperature
        counts = similarity.new_zeros(similarity.shape[1])
        counts = counts.index_add(0, indices.flatten(), counts.new_ones(indices.numel()))
        supervised = (similarity / self.shot_temperature + counts.log()).softmax(dim=1)
        own = torch.zeros_like(similarity).scatter(1, indices, 1 / indices.shape[1])
        return contrasted + (supervised - own) / self.shot_temperature


def normalised(embeddings: Embeddings) -> tuple[Tensor, Tensor, Tensor]:
    """Online views, targets and memory bank, normalised to length 1, the last two without gradient."""
    assert embeddings.target is not None and embeddings.memory_bank is not None
    return unit(embeddings.online), unit(embeddings.target.detach()), unit(embeddings.memory_bank.detach())


def supervised_contrast(queries: Tensor, shots: Tensor) -> Tensor:
    """Mean over queries (B, D) of ``-1/K sum log softmax`` of the products with their own shots among all shots (B, K,
    D).
    """
    everything = queries @ shots.flatten(0, 1).T  # (B, B K)
    own = (queries * shots.mean(dim=1)).sum(dim=1)
    return (everything.logsumexp(dim=1) - own).mean()


@torch.no_grad()
def shot_metrics(target: Tensor, memory_bank: Tensor, indices: Tensor) -> dict[str, Tensor]:
    """How close the shots at (G, B, K) are to their targets, and the share of shots that are distinct memory bank
    entries.

    The share is 1 if no entry has two pseudo-labels.
    """
    chosen = indices.flatten(1)
    used = memory_bank.new_zeros(len(target), len(memory_bank)).scatter(1, chosen, 1.0)
    return {
        "shot_similarity": (target[:, :, None] * memory_bank[indices]).sum(dim=-1).mean(),
        "distinct_shots": used.sum(dim=1).mean() / chosen.shape[1],
    }
