"""SNAIL: temporal convolutions and causal attention over a sequence of labelled images."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Map
from ssl_runner.algorithms.forward_learner import QUERIES, SUPPORT
from ssl_runner.algorithms.label_reader import SequenceReader
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext

# of the paper's network for Omniglot (app. A): key and value widths of the attention blocks, filters of the others
ATTENTION = ((64, 32), (256, 128), (512, 256))
FILTERS = 128


class SNAIL(SequenceReader):
    """A Simple Neural Attentive Meta-Learner (Mishra et al. 2018, arXiv:1707.03141, sec. 3 and app. A).

    Attention, temporal convolutions, attention, temporal convolutions, attention, each of which puts what it finds
    beside what came in, and a linear layer. Every query ends a sequence of its own after the support, so queries do not
    see each other; the support's part is computed once for all of them, since nothing looks ahead. Deviations: the
    dilations are 1, 2, 4 ... so that no place is skipped (the paper's pseudo-code begins with 2), a task has several
    queries, and images come through the run's encoder.

    Args:
        network: Encoder and head, whose outputs with the labels are the sequence.
        loss: Of the scores of the queries.
        n_way: See `LabelReader`.
        sequence_length: Images, the query's included, that the convolutions can reach over: at least 2.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(self, network: Network, loss: Loss, n_way: int, sequence_length: int) -> None:
        super().__init__(network, loss, n_way)
        if sequence_length < 2:
            raise InvalidValue(f"sequence_length={sequence_length}; give the images of a task and one, say 26 for 5w5s")
        width, blocks = self.in_features + n_way, []
        for number, (key, value) in enumerate(ATTENTION):
            blocks.append(CausalAttention(width, key, value))
            width += value
            for level in range(math.ceil(math.log2(sequence_length)) if number < len(ATTENTION) - 1 else 0):
                blocks.append(DenseBlock(width, FILTERS, 2**level))
                width += FILTERS
        self.blocks = nn.ModuleList(blocks)
        self.score = nn.Linear(width, n_way)

    def arranged(self, support: Tensor, labels: Tensor, context: StepContext) -> tuple[Tensor, Tensor]:
        order = torch.randperm(labels.shape[1], generator=context.generator("support order"), device=context.device)
        return support[:, order], labels[:, order]

    def read(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        support, query = self._sequence(support, labels, query)
        for block in self.blocks:
            support, query = block(support, query)
        return self.score(query)

    def looks(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> dict[str, Map]:
        """Attention of the queries in each block that has one; what a query takes of itself is missing to 1."""
        order, found = self.order(support), {}
        labels = self.one_hot(support_labels, support)
        support, query = self._sequence(support[:, order], labels[:, order], query)
        for block in self.blocks:
            if isinstance(block, CausalAttention):
                weights = block.weights(support, query)[0][0]
                found[f"attention/block_{len(found) + 1}"] = Map(weights[:, order.argsort()], QUERIES, SUPPORT)
            support, query = block(support, query)
        return found

    def _sequence(self, support: Tensor, labels: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Images with their labels, (T, S, E + `n_way`), and queries with none, (T, Q, E + `n_way`)."""
        unknown = labels.new_zeros(*query.shape[:2], self.n_way)
        return torch.cat([support, labels], dim=2), torch.cat([query, unknown], dim=2)


class DenseBlock(nn.Module):
    """A gated causal convolution of two taps, beside its input (arXiv:1707.03141, fig. 2 b).

    Args:
        width: Of the input.
        filters: By which the output is wider.
        dilation: Steps from one tap to the other; before the beginning are zeros.
    """

    def __init__(self, width: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.present = nn.Linear(width, 2 * filters)
        self.past = nn.Linear(width, 2 * filters, bias=False)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences (T, S, width), and queries (T, Q, width) of which each would be the next element."""
        length = support.shape[1]
        # past[:, t] is what position t sees of t - dilation; position S is that of every query
        past = F.pad(self.past(support), (0, 0, self.dilation, 0))[:, : length + 1]
        return self._gated(support, past[:, :length]), self._gated(query, past[:, length:])

    def _gated(self, tokens: Tensor, past: Tensor) -> Tensor:
        signal, gate = (self.present(tokens) + past).chunk(2, dim=-1)
        return torch.cat([tokens, signal.tanh() * gate.sigmoid()], dim=-1)


class CausalAttention(nn.Module):
    """Soft attention to itself and to what came before, beside its input (arXiv:1707.03141, fig. 2 c).

    Args:
        width: Of the input.
        key_width: Of queries and keys.
        value_width: By which the output is wider.
    """

    def __init__(self, width: int, key_width: int, value_width: int) -> None:
        super().__init__()
        self.key_width = key_width
        self.query, self.key = nn.Linear(width, key_width), nn.Linear(width, key_width)
        self.value = nn.Linear(width, value_width)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """As `DenseBlock.forward`."""
        keys, values = self.key(support), self.value(support)
        ahead = torch.ones(support.shape[1], support.shape[1], dtype=torch.bool, device=support.device).triu(1)
        among = self._logits(self.query(support), keys).masked_fill(ahead, -torch.inf).softmax(dim=-1) @ values
        to_support, itself = self.weights(support, query)
        found = to_support @ values + itself * self.value(query)
        return torch.cat([support, among], dim=-1), torch.cat([query, found], dim=-1)

    def weights(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """What each query takes of the support, (T, Q, S), and of itself, (T, Q, 1); together 1."""
        asked = self.query(query)
        own = (asked * self.key(query)).sum(-1, keepdim=True) / self.key_width**0.5
        both = torch.cat([self._logits(asked, self.key(support)), own], dim=-1).softmax(dim=-1)
        return both[..., :-1], both[..., -1:]

    def _logits(self, queries: Tensor, keys: Tensor) -> Tensor:
        return queries @ keys.transpose(1, 2) / self.key_width**0.5
