"""Model-based meta-learners: networks that read images with their labels and predict in one forward pass."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.forward_learner import ForwardLearner
from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Network, out_features
from ssl_runner.runtime import randomness


class LabelReader(ForwardLearner):
    """Base class of learners that receive labels as one-hot vectors and have one output for each label.

    The labels of a task are numbers drawn by its sampler, so their meaning can only be learned from the support. Tasks
    may have fewer classes than there are outputs.

    Args:
        network: Encoder and head; the learner reads the head's outputs.
        loss: Loss of the scores.
        n_way: Number of outputs: the largest number of classes in a training task.

    Raises:
        ValueError: n_way is below 2.
    """

    def __init__(self, network: Network, loss: Loss, n_way: int) -> None:
        super().__init__(network, loss)
        if n_way < 2:
            raise InvalidValue(
                f"{type(self).__name__} needs at least 2 classes, got {n_way}; set, say, batching.n_way=5"
            )
        self.n_way = n_way
        self.in_features = out_features(network)

    @abstractmethod
    def read(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Scores (T, Q, `n_way`) of queries (T, Q, E), given support (T, S, E) and one-hot labels (T, S, `n_way`)."""

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        if n_way > self.n_way:
            name = type(self).__name__
            raise InvalidValue(
                f"this {name} has {self.n_way} outputs, so it classifies at most {self.n_way} ways, got {n_way}; "
                f"evaluate fewer (eval.few_shot.settings=[{self.n_way}w1s]) or set batching.n_way={n_way}"
            )
        return self.read(support, self.one_hot(support_labels, support), query)[..., :n_way]

    def one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        """Labels (T, S) as one-hot vectors (T, S, `n_way`), with the dtype of ``like``."""
        return F.one_hot(labels, self.n_way).to(like.dtype)


def refuse_scale(label_scale: float) -> None:
    """Raises ValueError for a length of label vectors that is not above 0."""
    if not label_scale > 0:
        raise InvalidValue(f"label_scale={label_scale}; vectors of classes need a length, for example 10")


class SequenceReader(LabelReader):
    """Base class of learners that read the support one image after another, so that its order matters.

    Training uses a new order at each step. Evaluation uses one order for all tasks of a size, drawn once, so that a
    task's scores depend only on the task.
    """

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        order = self.order(support)
        return super().compare(support[:, order], support_labels[:, order], query, n_way)

    def order(self, support: Tensor) -> Tensor:
        """Indices (S,) of the support in the order in which it is read."""
        # tasks are sorted by class, which a random order would hardly ever be
        order = torch.from_numpy(randomness.permutation(0, "support order", 0, support.shape[1]))
        return to_device(order, support.device)
