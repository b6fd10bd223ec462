"""Prototypical networks."""

from torch import Tensor

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.algorithms.forward_learner import ForwardLearner


class ProtoNet(ForwardLearner):
    """ProtoNet (Snell et al. 2017, arXiv:1703.05175, eq. 2): softmax over minus the squared distances to class means.

    In training, support and query go through the network in one forward pass, as in the authors' code. Evaluation uses
    the running statistics of batch normalisation, so a prediction does not depend on the other queries (inductive).
    """

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        return nearness(query, class_means(support, support_labels, n_way))


def nearness(query: Tensor, prototypes: Tensor) -> Tensor:
    """Minus the squared distance (T, Q, N) of each query (T, Q, E) to each prototype (T, N, E)."""
    # expanded by hand: the gradient of cdist's root is infinite at 0
    cross = query @ prototypes.transpose(1, 2)
    return 2 * cross - query.square().sum(-1)[..., None] - prototypes.square().sum(-1)[:, None, :]
