"""Attention from one set of tokens to another."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.errors import InvalidValue


class Attention(nn.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, arXiv:1706.03762, sec. 3.2).

    Args:
        key_features: Width of queries and keys.
        value_features: Width of the values.
        width: Width of all heads together, and of the output.
        heads: Number of heads, which share the width evenly.

    Raises:
        ValueError: The width is not a multiple of the number of heads, or one of them is below 1.
    """

    def __init__(self, key_features: int, value_features: int, width: int, heads: int) -> None:
        super().__init__()
        refuse_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(key_features, width)
        self.key = nn.Linear(key_features, width)
        self.value = nn.Linear(value_features, width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attended values (T, Q, width) of queries (T, Q, K), keys (T, S, K) and values (T, S, V)."""
        query, key = self._by_head(self.query(queries)), self._by_head(self.key(keys))
        attended = F.scaled_dot_product_attention(query, key, self._by_head(self.value(values)))
        return self.out(attended.transpose(1, 2).flatten(2))

    def weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Attention of each query to each key, averaged over heads: (T, Q, S), where each row sums to 1."""
        query, key = self._by_head(self.query(queries)), self._by_head(self.key(keys))
        return (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)

    def _by_head(self, tokens: Tensor) -> Tensor:
        """Tokens by head, (T, heads, S, width / heads)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def refuse_heads(width: int, heads: int) -> None:
    """Raises ValueError if the heads cannot share the width evenly."""
    if min(width, heads) < 1 or width % heads:
        raise InvalidValue(f"width={width}, heads={heads}; width must be a multiple of heads, say 128 and 4")


def perceptron(in_features: int, hidden_features: int, out_features: int, layers: int) -> nn.Sequential:
    """Linear layers with ReLU in between.

    Args:
        in_features: Width of the input.
        hidden_features: Width of the hidden layers.
        out_features: Width of the output.
        layers: Number of linear layers, at least 1.
    """
    widths = [in_features, *[hidden_features] * (layers - 1), out_features]
    stack: list[nn.Module] = []
    for before, after in pairwise(widths):
        stack += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*stack[:-1])
