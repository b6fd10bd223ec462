"""Relation networks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import class_means, encode_tasks
from ssl_runner.algorithms.forward_learner import ForwardLearner
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.batch_norm import BatchNorm2d
from ssl_runner.models.network import Encoder, Network


class RelationNet(ForwardLearner):
    """Relation Network (Sung et al. 2018, arXiv:1711.06025, eq. 1-2): a learned comparison of feature maps.

    A class is the mean of the maps of its support, and a module scores each pair of class and query. Deviation: the
    paper sums the maps, but a module trained on sums of one shot cannot judge sums of five. With one shot, mean and sum
    are equal. The score is the value before the sigmoid, which ``loss=relation_mse`` applies, so that ``cross_entropy``
    over the classes is possible too. In training, support and query are normalised in one forward pass. Evaluation uses
    running statistics, so a prediction does not depend on the other queries (inductive).

    Args:
        network: Network whose encoder has feature maps; the head is not used and must be ``identity``.
        loss: Loss of the scores.
        width: Channels of the relation module's convolutions (64 in the paper).
        hidden_features: Width of its hidden layer (8 in the paper).

    Raises:
        ValueError: The head has weights, the encoder has no feature maps, or a width is below 1.
    """

    def __init__(self, network: Network, loss: Loss, width: int, hidden_features: int) -> None:
        super().__init__(network, loss)
        if min(width, hidden_features) < 1:
            raise InvalidValue(f"width={width}, hidden_features={hidden_features}; both must be at least 1")
        if list(network.head.parameters()):
            raise InvalidValue(
                "RelationNet compares feature maps and would never train the head; choose model/head=identity"
            )
        self.relation = Relation(*_map_shape(network.encoder), width, hidden_features)

    def represent(self, images: Tensor) -> Tensor:
        return self.network.encoder.feature_map(images)

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Scores (T, Q, n_way) from feature maps: support (T, S, C, h, w) and query (T, Q, C, h, w)."""
        return self.relation(class_maps(support, support_labels, n_way), query)

    def classify(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> Tensor:
        support, query = self.embed_task(support_images, query_images)
        return self.compare(support, support_labels, query, n_way)


class Relation(nn.Module):
    """Scores pairs of maps by two blocks of 3x3 convolution, batch normalisation, ReLU and pooling, then two layers.

    The first convolution acts on concatenated maps, which equals the sum of a convolution of the class and one of the
    query; each is computed once instead of once per pair. Maps of one pixel are not pooled.

    Args:
        channels: Channels of each map.
        side: Height and width of the maps. Maps of another size are averaged to the grid that this size leads to.
        width: Channels of the convolutions.
        hidden_features: Width of the hidden layer.
    """

    def __init__(self, channels: int, side: int, width: int, hidden_features: int) -> None:
        super().__init__()
        # no biases: the normalisation that follows would cancel them
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1, bias=False)
        self.first_norm = BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = BatchNorm2d(width)
        self.grid = max(max(side // 2, 1) // 2, 1)
        self.hidden = nn.Linear(width * self.grid**2, hidden_features)
        self.score = nn.Linear(hidden_features, 1)

    def forward(self, classes: Tensor, query: Tensor) -> Tensor:
        """Scores (T, Q, N) of classes (T, N, C, h, w) and queries (T, Q, C, h, w); their sigmoids are the relations."""
        kernels = self.first.weight.chunk(2, dim=1)
        of_class, of_query = (
            encode_tasks(lambda flat, kernel=kernel: F.conv2d(flat, kernel, padding=1), maps)
            for maps, kernel in zip((classes, query), kernels, strict=True)
        )
        pairs = of_class[:, None] + of_query[:, :, None]  # (T, Q, N, width, h, w)
        maps = _halved(self.first_norm(pairs.flatten(0, 2)).relu())
        maps = _halved(self.second_norm(self.second(maps)).relu())
        if maps.shape[-1] != self.grid:
            maps = F.adaptive_avg_pool2d(maps, self.grid)
        scores = self.score(self.hidden(maps.flatten(1)).relu())
        return scores.view(pairs.shape[:3])


def class_maps(maps: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Mean over the shots of each class (T, n_way, C, h, w), from maps (T, S, C, h, w) and labels (T, S)."""
    return class_means(maps.flatten(2), labels, n_way).unflatten(2, maps.shape[2:])


def _halved(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, 2) if min(maps.shape[-2:]) > 1 else maps


def _map_shape(encoder: Encoder) -> tuple[int, int]:
    """Channels and side of the encoder's maps, measured on a blank image without changing the encoder's state."""
    was_training = encoder.training
    with torch.no_grad():
        maps = encoder.eval().feature_map(torch.zeros(1, *encoder.input_shape, device=encoder.mean.device))
    encoder.train(was_training)
    if maps.ndim != 4 or maps.shape[2] != maps.shape[3]:
        raise InvalidValue(
            f"RelationNet compares maps (B, channels, h, h), but this encoder returns {tuple(maps.shape)}; "
            "choose a convolutional one, say model/encoder=conv4 or resnet18"
        )
    return maps.shape[1], maps.shape[2]
