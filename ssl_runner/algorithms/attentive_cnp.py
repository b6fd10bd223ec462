"""Attentive neural processes: the deterministic path."""

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Map
from ssl_runner.algorithms.forward_learner import QUERIES, SUPPORT
from ssl_runner.algorithms.label_reader import LabelReader, refuse_scale
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.attention import Attention, perceptron, refuse_heads
from ssl_runner.models.network import Network


class AttentiveCNP(LabelReader):
    """The deterministic path of the Attentive Neural Process (Kim et al. 2019, arXiv:1901.05761, fig. 2).

    Pairs of image and label are encoded and attend to one another. A query gathers from them by attention over the
    images, and a decoder receives the result together with the query. A prediction therefore depends neither on the
    order of the support nor on the other queries. Deviations: there is no latent path, as there is no function to
    sample; self-attention is residual, which the paper leaves open.

    Args:
        network: Encoder and head; the head's outputs are what is encoded.
        loss: Loss of the scores.
        n_way: See `LabelReader`.
        width: Width of encodings and hidden layers, a multiple of ``heads``.
        layers: Layers of each perceptron, at least 1.
        heads: Heads of each attention.
        label_scale: See `ssl_runner.algorithms.in_context_transformer.InContextTransformer`.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        n_way: int,
        width: int,
        layers: int,
        heads: int,
        label_scale: float = 1.0,
    ) -> None:
        super().__init__(network, loss, n_way)
        if layers < 1:
            raise InvalidValue(f"layers={layers}; give at least 1, say 2")
        refuse_heads(width, heads)
        refuse_scale(label_scale)
        self.label_scale = label_scale
        self.representation = perceptron(self.in_features + n_way, width, width, layers)
        self.among_support = Attention(width, width, width, heads)
        self.key = perceptron(self.in_features, width, width, layers)
        self.to_support = Attention(width, width, width, heads)
        self.decoder = perceptron(width + self.in_features, width, n_way, layers)

    def looks(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> dict[str, Map]:
        weights = self.to_support.weights(self.key(query), self.key(support))
        return {"attention": Map(weights[0], QUERIES, SUPPORT)}

    def read(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        pairs = self.representation(torch.cat([support, self.label_scale * labels], dim=2))
        pairs = pairs + self.among_support(pairs, pairs, pairs)
        found = self.to_support(self.key(query), self.key(support), pairs)
        return self.decoder(torch.cat([found, query], dim=2))
