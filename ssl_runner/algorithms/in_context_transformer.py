"""A transformer that learns in context."""

import torch
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Map
from ssl_runner.algorithms.forward_learner import QUERIES, SUPPORT
from ssl_runner.algorithms.label_reader import LabelReader, refuse_scale
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.attention import Attention, perceptron, refuse_heads
from ssl_runner.models.network import Network


class InContextTransformer(LabelReader):
    """In-context learner after GPICL (Kirsch et al. 2022, arXiv:2212.04458) and CAML (Fifty et al. 2023,
    arXiv:2310.10971, sec. 3): a transformer over tokens of an image and its label, which is unknown for a query.

    There are no position embeddings. Support tokens attend to one another and queries attend to the support, so a
    prediction depends neither on the order of the support nor on the other queries, and the support is processed once
    for all queries. Blocks normalise first (pre-norm). Deviations: GPICL's sequence is causal and is trained to predict
    at every position; CAML freezes a pre-trained encoder, uses equiangular vectors where this uses one-hot labels, and
    lets the support attend to the query too (`ssl_runner.algorithms.caml.CAML`).

    Args:
        network: Encoder and head. A token is a linear map of the head's output and the label.
        loss: Loss of the scores.
        n_way: See `LabelReader`.
        width: Width of a token, a multiple of ``heads``.
        depth: Number of blocks of attention and perceptron, at least 1.
        heads: Number of attention heads.
        label_scale: Length of the one-hot labels, above 0. Beside features that are many times as long, it takes long
            until a label is noticed. Configs of earlier versions lack it.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        n_way: int,
        width: int,
        depth: int,
        heads: int,
        label_scale: float = 1.0,
    ) -> None:
        super().__init__(network, loss, n_way)
        refuse_heads(width, heads)
        refuse_scale(label_scale)
        self.label_scale = label_scale
        self.token = nn.Linear(self.in_features + n_way, width)
        self.blocks = blocks_of(width, depth, heads)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, n_way)

    def read(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        tokens = self._tokens(support, labels, query)
        for block in self.blocks:
            tokens = block(tokens, support.shape[1])
        return self.score(self.norm(tokens[:, support.shape[1] :]))

    def looks(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> dict[str, Map]:
        """Attention of the queries to the support in each block, averaged over heads."""
        tokens, n_support, maps = (
            self._tokens(support, self.one_hot(support_labels, support), query),
            support.shape[1],
            {},
        )
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Block)
            normed = block.attention_norm(tokens)
            weights = block.attention.weights(normed[:, n_support:], normed[:, :n_support])
            maps[f"attention/block_{number}"] = Map(weights[0], QUERIES, SUPPORT)
            tokens = block(tokens, n_support)
        return maps

    def _tokens(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Tokens (T, S + Q, width), the support first."""
        unknown = labels.new_zeros(*query.shape[:2], self.n_way)
        shown = torch.cat([support, self.label_scale * labels], dim=2)
        return self.token(torch.cat([shown, torch.cat([query, unknown], dim=2)], dim=1))


class Block(nn.Module):
    """Attention to the support, then a perceptron; the output of each is added to its input.

    Args:
        width: Width of a token.
        heads: Number of attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, width, width, heads)
        self.perceptron = perceptron(width, 4 * width, width, layers=2)

    def forward(self, tokens: Tensor, n_support: int) -> Tensor:
        """Maps tokens (T, S + Q, width) to new ones; all of them attend to the first ``n_support``."""
        normed = self.attention_norm(tokens)
        support = normed[:, :n_support]
        tokens = tokens + self.attention(normed, support, support)
        return tokens + self.perceptron(self.perceptron_norm(tokens))


def blocks_of(width: int, depth: int, heads: int) -> nn.ModuleList:
    """So many blocks, one after the other; raises ValueError if there is none."""
    if depth < 1:
        raise InvalidValue(f"depth={depth}; give at least one block, say 4")
    return nn.ModuleList([Block(width, heads) for _ in range(depth)])
