"""SNAIL: temporal convolutions and causal attention over a sequence of labelled images."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Map
from ssl_runner.algorithms.forward_learner import QUERIES, SUPPORT
from ssl_runner.algorithms.label_reader import SequenceReader, refuse_scale
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext

# the paper's network for Omniglot (app. A): key and value widths of the attention blocks, filters of the other blocks
ATTENTION = ((64, 32), (256, 128), (512, 256))
FILTERS = 128


class SNAIL(SequenceReader):
    """A Simple Neural Attentive Meta-Learner (Mishra et al. 2018, arXiv:1707.03141, sec. 3 and app. A).

    The network is attention, temporal convolutions, attention, temporal convolutions, attention, each of which
    concatenates its output to its input, and a linear layer. Every query ends a sequence of its own after the support,
    so queries do not see each other. The support's part is computed once for all queries, since no element attends to
    later ones. Deviations: the dilations are 1, 2, 4, ... so that no position is skipped (the paper's pseudo-code
    begins with 2); a task has several queries; images go through the run's encoder.

    Args:
        network: Encoder and head. The head's outputs together with the labels are the sequence.
        loss: Loss of the scores of the queries.
        n_way: See `LabelReader`.
        sequence_length: Number of images, including the query, that the convolutions can span; at least 2.
        label_scale: See `ssl_runner.algorithms.in_context_transformer.InContextTransformer`.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self, network: Network, loss: Loss, n_way: int, sequence_length: int, label_scale: float = 1.0
    ) -> None:
        super().__init__(network, loss, n_way)
        refuse_scale(label_scale)
        self.label_scale = label_scale
        if sequence_length < 2:
            raise InvalidValue(
                f"sequence_length={sequence_length}; give the support images of a task plus one, say 26 for 5w5s"
            )
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
        """Attention of the queries to the support in each attention block.

        A row sums to less than 1 by the query's attention to itself.
        """
        order, maps = self.order(support), {}
        labels = self.one_hot(support_labels, support)
        support, query = self._sequence(support[:, order], labels[:, order], query)
        for block in self.blocks:
            if isinstance(block, CausalAttention):
                weights = block.weights(support, query)[0][0]
                maps[f"attention/block_{len(maps) + 1}"] = Map(weights[:, order.argsort()], QUERIES, SUPPORT)
            support, query = block(support, query)
        return maps

    def _sequence(self, support: Tensor, labels: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """The support with its labels (T, S, E + `n_way`), and the queries with zeros (T, Q, E + `n_way`)."""
        unknown = labels.new_zeros(*query.shape[:2], self.n_way)
        return torch.cat([support, self.label_scale * labels], dim=2), torch.cat([query, unknown], dim=2)


class DenseBlock(nn.Module):
    """A gated causal convolution with two taps, concatenated to its input (arXiv:1707.03141, fig. 2 b).

    Args:
        width: Width of the input.
        filters: Width that is added to the input.
        dilation: Distance between the taps. Positions before the beginning are zeros.
    """

    def __init__(self, width: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.present = nn.Linear(width, 2 * filters)
        self.past = nn.Linear(width, 2 * filters, bias=False)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Extends sequences (T, S, width) and queries (T, Q, width), each the next element of its own sequence."""
        length = support.shape[1]
        # past[:, t] is what position t sees of position t - dilation; every query is at position S
        past = F.pad(self.past(support), (0, 0, self.dilation, 0))[:, : length + 1]
        return self._gated(support, past[:, :length]), self._gated(query, past[:, length:])

    def _gated(self, tokens: Tensor, past: Tensor) -> Tensor:
        signal, gate = (self.present(tokens) + past).chunk(2, dim=-1)
        return torch.cat([tokens, signal.tanh() * gate.sigmoid()], dim=-1)


class CausalAttention(nn.Module):
    """Soft attention to an element itself and to earlier ones, concatenated to the input (arXiv:1707.03141, fig. 2 c).

    Args:
        width: Width of the input.
        key_width: Width of queries and keys.
        value_width: Width that is added to the input.
    """

    def __init__(self, width: int, key_width: int, value_width: int) -> None:
        super().__init__()
        self.key_width = key_width
        self.query, self.key = nn.Linear(width, key_width), nn.Linear(width, key_width)
        self.value = nn.Linear(width, value_width)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """See `DenseBlock.forward`."""
        keys, values = self.key(support), self.value(support)
        later = torch.ones(support.shape[1], support.shape[1], dtype=torch.bool, device=support.device).triu(1)
        among = self._logits(self.query(support), keys).masked_fill(later, -torch.inf).softmax(dim=-1) @ values
        to_support, itself = self.weights(support, query)
        attended = to_support @ values + itself * self.value(query)
        return torch.cat([support, among], dim=-1), torch.cat([query, attended], dim=-1)

    def weights(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of each query to the support (T, Q, S) and to itself (T, Q, 1); together they sum to 1."""
        queries = self.query(query)
        own = (queries * self.key(query)).sum(-1, keepdim=True) / self.key_width**0.5
        both = torch.cat([self._logits(queries, self.key(support)), own], dim=-1).softmax(dim=-1)
        return both[..., :-1], both[..., -1:]

    def _logits(self, queries: Tensor, keys: Tensor) -> Tensor:
        return queries @ keys.transpose(1, 2) / self.key_width**0.5
