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
    """Matching Networks (Vinyals et al. 2016, arXiv:1606.04080, eq. 1): the support's labels, weighted by attention.

    The score of a class is log sum_i a(x, x_i) y_i, where a is the softmax over the support of cosine / temperature. It
    is a log-probability, so its cross-entropy is the negative log-likelihood. Deviations: the temperature (it is 1 in
    the paper, which is too high to distinguish a class among 60 cosines), and support and query are normalised in one
    forward pass in training. Evaluation uses running statistics, so a prediction does not depend on the other queries
    (inductive).

    Args:
        network: Encoder and head; the cosines are those of the head's outputs.
        loss: Loss of the log-probabilities; the paper's is ``cross_entropy``.
        temperature: Temperature of the cosines, above 0.
        learned_temperature: Whether the temperature is trained, in log space, starting at ``temperature``.
        read_steps: Steps of the attention LSTM of the full context embeddings (`FullContext`); 0 for none.

    Raises:
        ValueError: The temperature is not above 0, or read_steps is below 0.
    """

    def __init__(
        self, network: Network, loss: Loss, temperature: float, learned_temperature: bool, read_steps: int
    ) -> None:
        super().__init__(network, loss)
        refuse_temperature(temperature)
        if read_steps < 0:
            raise InvalidValue(f"read_steps={read_steps}; give at least 0, where 0 means no full context embeddings")
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)), requires_grad=learned_temperature)
        self.context = FullContext(out_features(network), read_steps) if read_steps else None

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"full_context": self.context is not None}

    def figures(self) -> dict[str, Tensor]:
        return {"temperature": self.log_temperature.detach().exp()}

    def looks(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> dict[str, Map]:
        return {"attention": Map(self.log_attention(support, query)[0].exp(), QUERIES, SUPPORT)}

    def log_attention(self, support: Tensor, query: Tensor) -> Tensor:
        """Log of the attention of each query to the support, (T, Q, S)."""
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
            # summed in log space: the probability of a distant class underflows to 0 in float32
            return attention[..., None].masked_fill(others, -torch.inf).logsumexp(dim=2)


class FullContext(nn.Module):
    """Full context embeddings (arXiv:1606.04080, eq. 3-6 and app. A): each embedding depends on the whole support.

    Support: the outputs of both directions of an LSTM over the support, added to its embeddings. They depend on the
    order of the support, as in the paper. Queries: an LSTM that reads the support by attention, separately for each
    query.

    Args:
        width: Width of the embeddings and of the LSTMs.
        read_steps: K of the paper, at least 1.
    """

    def __init__(self, width: int, read_steps: int) -> None:
        super().__init__()
        self.read_steps = read_steps
        self.support = nn.LSTM(width, width, bidirectional=True, batch_first=True)
        self.query = nn.LSTMCell(2 * width, width)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Maps support (T, S, E) and queries (T, Q, E) to their embeddings in context, of the same shapes."""
        both, _ = self.support(support)
        support = support + sum(both.chunk(2, dim=-1))
        rows = query.flatten(0, 1)
        hidden, cell = rows, torch.zeros_like(rows)
        outer = torch.zeros_like(rows)
        for _ in range(self.read_steps):
            attention = (hidden.view_as(query) @ support.transpose(1, 2)).softmax(dim=-1)  # eq. 6
            read = (attention @ support).flatten(0, 1)  # eq. 5
            # eq. 3 makes [h, r] the state; feeding r as an input instead is equivalent
            outer, cell = self.query(torch.cat([rows, read], dim=-1), (hidden, cell))
            hidden = outer + rows  # eq. 4
        return support, hidden.view_as(query)
