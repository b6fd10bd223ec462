"""The multi-similarity loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, counted_negatives, roles, softmax_among
from ssl_runner.losses.pairwise import mean_of
from ssl_runner.runtime.step_context import StepContext


class MultiSimilarity(Loss):
    """Multi-similarity loss over mined pairs (Wang et al. 2019, arXiv:1904.06627, eq. 15; mining: eq. 11 and 12).

    For each anchor, ``log(1 + sum exp(-alpha (s - base))) / alpha`` over its positives plus ``log(1 + sum exp(beta (s -
    base))) / beta`` over its negatives, where s is the cosine similarity. Mining keeps the negatives that are more
    similar than the least similar positive minus epsilon, and the positives that are less similar than the most similar
    negative plus epsilon. The mean is over all anchors; an anchor without positives or negatives keeps no pairs and
    counts 0.

    Args:
        alpha: How sharply positives are weighted, above 0.
        beta: How sharply negatives are weighted, above 0.
        base: The similarity around which both are weighted; lambda in the paper.
        epsilon: The slack of the mining, at least 0; 2 or more keeps every pair.
    """

    needs = frozenset({"labels"})

    def __init__(self, alpha: float, beta: float, base: float, epsilon: float) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not value > 0:
                raise InvalidValue(f"{name}={value}; it sharpens the weights of pairs, so give a number above 0")
        if not -1 <= base <= 1:
            raise InvalidValue(f"base={base}; it is a cosine similarity, so give a number in [-1, 1]")
        if not epsilon >= 0:
            raise InvalidValue(f"epsilon={epsilon}; it widens the choice of pairs, so give a number of at least 0")
        self.alpha, self.beta, self.base, self.epsilon = alpha, beta, base, epsilon

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), unnormalised; labels: (B,). Views of an image are positives of each other."""
        online, labels = embeddings.online, embeddings.labels
        assert labels is not None
        labels = labels.repeat(len(online))  # (V B,)
        points = F.normalize(online.to(torch.promote_types(online.dtype, torch.float32)).flatten(0, 1), dim=-1)
        similarity = points @ points.T
        same = labels[:, None] == labels[None, :]
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        kept_positive, kept_negative = self.mine(similarity.detach(), positive, ~same)
        attraction = log_one_plus_sum(-self.alpha * (similarity - self.base), kept_positive) / self.alpha
        repulsion = log_one_plus_sum(self.beta * (similarity - self.base), kept_negative) / self.beta
        with torch.no_grad():
            metrics = {
                "kept_positives": mean_of(kept_positive.to(similarity.dtype), positive),
                "kept_negatives": mean_of(kept_negative.to(similarity.dtype), ~same),
                "positive_similarity": mean_of(similarity, positive),
                "negative_similarity": mean_of(similarity, ~same),
            }
        return (attraction + repulsion).mean(), metrics

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of beta s over the kept negatives."""
        points = F.normalize(embeddings.online.flatten(0, 1), dim=-1)
        similarity = points @ points.T
        _, kept = self.mine(similarity, *roles(embeddings.online, embeddings.labels))
        return counted_negatives(embeddings.online, softmax_among(self.beta * similarity, kept), embeddings.labels)

    @torch.no_grad()
    def mine(self, similarity: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Masks of the positive and the negative pairs (n, n) that are kept."""
        least = similarity.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
        most = similarity.masked_fill(~negative, -torch.inf).amax(dim=1, keepdim=True)
        return positive & (similarity < most + self.epsilon), negative & (similarity > least - self.epsilon)


def log_one_plus_sum(exponents: Tensor, mask: Tensor) -> Tensor:
    """log(1 + sum exp) over the marked exponents of each row, (n, m) to (n,); 0 if none is marked."""
    return F.pad(exponents.masked_fill(~mask, -torch.inf), (1, 0)).logsumexp(dim=1)
