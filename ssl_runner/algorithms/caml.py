"""In-context learning on a frozen encoder, with labels as equiangular vectors."""

from typing import Self

import torch
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Map
from ssl_runner.algorithms.forward_learner import QUERIES, SUPPORT
from ssl_runner.algorithms.in_context_transformer import Block, blocks_of
from ssl_runner.algorithms.label_reader import LabelReader, refuse_scale
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Network
from ssl_runner.runtime import randomness


class CAML(LabelReader):
    """Context-Aware Meta-Learning (Fifty et al. 2024, arXiv:2310.10971, sec. 3): a transformer reads a sequence of one
    query and the support, and classifies the query's token.

    A token is an image's features beside a vector for its class: one of a fixed set of equally long, maximally
    equiangular vectors (ELMES, sec. 4), times a learned scale, or for the query a learned vector that means unknown.
    Every token attends to all others, also the support to the query, so each query has a sequence of its own:
    predictions do not depend on the other queries, and without position embeddings, not on the order of the support.
    It costs as many sequences as there are queries, where `InContextTransformer` has one.

    In the paper the encoder is pre-trained and frozen (``freeze_encoder=true``): its weights get no gradient, and it
    stays in evaluation mode, so batch normalisation keeps its running statistics. Deviations: the width of the vectors
    and the size of the transformer are arguments; its perceptrons have ReLU instead of GELU.

    Args:
        network: Encoder and head; a token begins with the head's output.
        loss: Loss of the scores.
        n_way: See `LabelReader`.
        freeze_encoder: Whether the encoder keeps the weights that it begins with.
        label_width: Width of the vectors of classes (256 in the paper), at least ``n_way``. Width of a token is that of
            the head's output plus this, and a multiple of ``heads``.
        depth: Number of blocks of attention and perceptron (24 in the paper), at least 1.
        heads: Number of attention heads (16 in the paper).
        label_scale: Length of the vectors of classes at the start (1 in the paper), above 0. Beside features that are
            many times as long, it takes long until a label is noticed. Configs of earlier versions lack it.

    Raises:
        ValueError: A number is out of its range.
    """

    elmes: Tensor

    def __init__(
        self,
        network: Network,
        loss: Loss,
        n_way: int,
        freeze_encoder: bool,
        label_width: int,
        depth: int,
        heads: int,
        label_scale: float = 1.0,
    ) -> None:
        super().__init__(network, loss, n_way)
        if label_width < n_way:
            raise InvalidValue(
                f"label_width={label_width}, but {n_way} vectors at equal angles need at least as many dimensions as "
                f"there are classes; set algorithm.label_width={max(64, n_way)}"
            )
        width = self.in_features + label_width
        if heads < 1 or width % heads:
            raise InvalidValue(
                f"label_width={label_width}, heads={heads}; the {self.in_features} features and label_width together "
                f"must be a multiple of heads, and {width} is not; change one of the two"
            )
        refuse_scale(label_scale)
        self.register_buffer("elmes", equiangular(n_way, label_width))
        self.scale = nn.Parameter(
            torch.full((1,), float(label_scale))
        )  # not a scalar: sharding divides weights by rows
        self.unknown = nn.Parameter(torch.zeros(label_width))
        self.blocks = blocks_of(width, depth, heads)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, n_way, bias=False)
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            network.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_encoder:
            self.network.encoder.eval()
        return self

    def figures(self) -> dict[str, Tensor]:
        return {"label_scale": self.scale.detach().squeeze()}

    def read(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        tokens = self._sequences(support, labels, query)
        for block in self.blocks:
            tokens = block(tokens, tokens.shape[1])
        return self.score(self.norm(tokens[:, 0])).unflatten(0, query.shape[:2])

    def looks(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> dict[str, Map]:
        """Attention of each query to the support in each block, averaged over heads; the rest goes to the query."""
        labels = self.one_hot(support_labels[:1], support)
        tokens, maps = self._sequences(support[:1], labels, query[:1]), {}
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Block)
            normed = block.attention_norm(tokens)
            weights = block.attention.weights(normed[:, :1], normed)[:, 0]
            maps[f"attention/block_{number}"] = Map(weights[:, 1:], QUERIES, SUPPORT)
            tokens = block(tokens, tokens.shape[1])
        return maps

    def _sequences(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Tokens (T * Q, 1 + S, width): each query before the support of its task."""
        asked = torch.cat([query, self.unknown.expand(*query.shape[:2], -1)], dim=2)
        shown = torch.cat([support, self.scale * labels @ self.elmes], dim=2)
        shown = shown[:, None].expand(-1, query.shape[1], -1, -1)
        return torch.cat([asked[:, :, None], shown], dim=2).flatten(0, 1)


def equiangular(n: int, width: int) -> Tensor:
    """Vectors (n, width) of length 1 whose cosines are all -1 / (n - 1), the least that n vectors can have in common.

    Args:
        n: Number of vectors, at least 2.
        width: At least n.
    """
    simplex = (n / (n - 1)) ** 0.5 * (torch.eye(n, dtype=torch.float64) - 1 / n)
    draws = torch.randn(width, n, dtype=torch.float64, generator=randomness.generator(0, "equiangular", 0))
    axes = torch.linalg.qr(draws).Q  # in random directions, so that each vector uses the whole width
    return (simplex @ axes.T).float()
