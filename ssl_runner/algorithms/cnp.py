"""Conditional neural processes."""

import torch
from torch import Tensor

from ssl_runner.algorithms.label_reader import LabelReader
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.attention import perceptron
from ssl_runner.models.network import Network


class CNP(LabelReader):
    """Conditional Neural Process (Garnelo et al. 2018, arXiv:1807.01613, eq. 1-3 and sec. 4.3).

    As in the paper's classification, each support image is encoded, the encodings are averaged over each class, and a
    decoder receives the class means, concatenated in the order of the labels, together with the query. A class that is
    missing from a task contributes zeros. A prediction therefore depends neither on the order of the support nor on the
    other queries.

    Args:
        network: Encoder and head; the head's outputs are what is encoded.
        loss: Loss of the scores.
        n_way: See `LabelReader`.
        width: Width of an encoding and of hidden layers, at least 1.
        layers: Layers of the perceptron that encodes, and of the decoder, at least 1.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(self, network: Network, loss: Loss, n_way: int, width: int, layers: int) -> None:
        super().__init__(network, loss, n_way)
        if min(width, layers) < 1:
            raise InvalidValue(f"width={width}, layers={layers}; both must be at least 1")
        self.representation = perceptron(self.in_features, width, width, layers)
        self.decoder = perceptron(n_way * width + self.in_features, width, n_way, layers)

    def read(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        sums = labels.transpose(1, 2) @ self.representation(support)  # (T, n_way, width)
        means = sums / labels.sum(dim=1).clamp_min(1)[..., None]
        task = means.flatten(1)[:, None].expand(-1, query.shape[1], -1)
        return self.decoder(torch.cat([task, query], dim=2))
