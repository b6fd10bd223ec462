"""Matching networks."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Map
from ssl_runner.algorithms.forward_learner import QUERIES, SUPPORT, ForwardLearner
from ssl_runner.algorithms.precision import at_least_float32, widened
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.losses.similarity import refuse_temperature
from ssl_runner.models.network import Network, out_features


class MatchingNet(ForwardLearner):
    """Matching Networks (Vinyals et al. 2016, arXiv:1606.04080, eq. 1): labels of the support, weighted by attention.

    The score of a class is log sum_i a(x, x_i) y_i with a the softmax over the support of cosine / temperature: a
    log-probability, whose cross-entropy is its negative. Deviations: the temperature (the paper's is 1, with which 60
    cosines cannot tell a class from the others), and support and query are normalised in one forward pass in training.
    Evaluation uses running statistics, so a prediction does not depend on the other queries (inductive).

    Args:
        network: Encoder and head; cosines are of its outputs.
        loss: Of the log-probabilities; ``cross_entropy`` is the paper's.
        temperature: Of the cosines, above 0.
        learned_temperature: Whether the temperature is trained, in log space, from there.
        read_steps: Steps of the attention LSTM of the full context embeddings (`FullContext`); 0 is without them.

    Raises:
        ValueError: The temperature is not above 0, or read_steps below 0.
    """

    def __init__(
        self, network: Network, loss: Loss, temperature: float, learned_temperature: bool, read_steps: int
    ) -> None:
        super().__init__(network, loss)
        refuse_temperature(temperature)
        if read_steps < 0:
            raise InvalidValue(f"read_steps={read_steps}; give at least 0, which is without full context embeddings")
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learned_temperature)
        self.context = FullContext(out_features(network), read_steps) if read_steps else None

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"full_context": self.context is not None}

    def figures(self) -> dict[str, Tensor]:
        return {"temperature": self.log_temperature.detach().exp()}

    def looks(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> dict[str, Map]:
        return {"attention": Map(self.log_attention(support, query)[0].exp(), QUERIES, SUPPORT)}

    def log_attention(self, support: Tensor, query: Tensor) -> Tensor:
        """Logarithms of what each query takes of the support, (T, Q, S)."""
        with at_least_float32(query.device):
            support, query = widened(support), widened(query)
            if self.context is not None:
                support, query = self.context(support, query)
            cosines = F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).transpose(1, 2)
            return (cosines / self.log_temperature.exp()).log_softmax(dim=-1)

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        with at_least_float32(query.device):
            attention = self.log_attention(support, query)
            others = F.one_hot(support_labels, n_way)[:, None] == 0  # (T, 1, S, n_way)
            # summed in log space: the probability of a far class is 0 in float32, its logarithm is not
            return attention[..., None].masked_fill(others, -torch.inf).logsumexp(dim=2)


class FullContext(nn.Module):
    """Full context embeddings (arXiv:1606.04080, eq. 3-6 and app. A): each embedding depends on the whole support.

    Support: both directions of an LSTM over it, added to the embeddings; it depends on the order, as in the paper.
    Queries: an LSTM that reads the support by attention, each query for itself.

    Args:
        width: Of the embeddings; the LSTMs have it too.
        read_steps: K of the paper, at least 1.
    """

    def __init__(self, width: int, read_steps: int) -> None:
        super().__init__()
        self.read_steps = read_steps
        self.support = nn.LSTM(width, width, bidirectional=True, batch_first=True)
        self.query = nn.LSTMCell(2 * width, width)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Support (T, S, E) and queries (T, Q, E) to the same in context."""
        both, _ = self.support(support)
        support = support + sum(both.chunk(2, dim=-1))
        rows = query.flatten(0, 1)
        hidden, cell = rows, torch.zeros_like(rows)
        outer = torch.zeros_like(rows)
        for _ in range(self.read_steps):
            attention = (hidden.view_as(query) @ support.transpose(1, 2)).softmax(dim=-1)  # eq. 6
            read = (attention @ support).flatten(0, 1)  # eq. 5
            # eq. 3 gives [h, r] as the state; a matrix on r is the same on the side of the input
            outer, cell = self.query(torch.cat([rows, read], dim=-1), (hidden, cell))
            hidden = outer + rows  # eq. 4
        return support, hidden.view_as(query)
