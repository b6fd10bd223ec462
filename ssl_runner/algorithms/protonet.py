"""Prototypical networks."""

from torch import Tensor

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.algorithms.forward_learner import ForwardLearner
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Network


class ProtoNet(ForwardLearner):
    """ProtoNet (Snell et al. 2017, arXiv:1703.05175, eq. 2): softmax over minus the squared distances to class means.

    In training, support and query go through the network in one forward pass, as in the authors' code. Evaluation uses
    the running statistics of batch normalisation, so a prediction does not depend on the other queries (inductive).

    Args:
        network: Encoder and head; the distances are those of the head's outputs.
        loss: Loss of the scores.
        temperature: Divides squared distances, above 0 (1 in the paper; metric scaling, Oreshkin et al. 2018,
            arXiv:1805.10123, sec. 3.1). Squared distances grow with the width of the outputs, and at 1 the softmax over
            wide ones is too sharp to learn from. Predictions do not depend on it otherwise. Configs of earlier versions
            lack it.

    Raises:
        ValueError: The temperature is not above 0.
    """

    def __init__(self, network: Network, loss: Loss, temperature: float = 1.0) -> None:
        super().__init__(network, loss)
        refuse_temperature("temperature", temperature)
        self.temperature = temperature

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        return nearness(query, class_means(support, support_labels, n_way)) / self.temperature


def nearness(query: Tensor, prototypes: Tensor) -> Tensor:
    """Minus the squared distance (T, Q, N) of each query (T, Q, E) to each prototype (T, N, E)."""
    # expanded by hand: the gradient of cdist's root is infinite at 0
    cross = query @ prototypes.transpose(1, 2)
    return 2 * cross - query.square().sum(-1)[..., None] - prototypes.square().sum(-1)[:, None, :]


def refuse_temperature(name: str, value: float) -> None:
    """Raises ValueError for a temperature of squared distances that is not above 0."""
    if not value > 0:
        raise InvalidValue(f"{name}={value}; it divides squared distances, so give a number above 0, say 16")
