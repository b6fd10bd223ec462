"""Ridge regression as the learner within a task."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.forward_learner import ForwardLearner
from ssl_runner.algorithms.precision import at_least_float32, widened
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Network


class R2D2(ForwardLearner):
    """R2-D2 (Bertinetto et al. 2019, arXiv:1805.08136, eq. 5-7): each task's classifier is ridge regression.

    Scores are ``scale * query W + bias``, where W is the closed-form ridge solution from the support's embeddings to
    one-hot labels; gradients go through the solution. Regularisation, scale and bias are learned. The bias is the same
    for all classes, so it matters only to losses other than a softmax. Deviations: the scale is learned in log space
    too, since a learning rate that suits the weights would only move it from 10 to 12 in a whole run; the embedding is
    the network's output, not the concatenation of the last two blocks; support and query are normalised in one forward
    pass in training. Evaluation uses running statistics, so a prediction does not depend on the other queries
    (inductive).

    Args:
        network: Encoder and head; the regression uses the head's outputs.
        loss: Loss of the scores.
        regularisation: Initial lambda, above 0. It is learned in log space and so stays above 0.
        scale: Initial factor of the predictions, which lie around 0 and 1; above 0, and learned in log space too.

    Raises:
        ValueError: One of them is not above 0.
    """

    def __init__(self, network: Network, loss: Loss, regularisation: float, scale: float) -> None:
        super().__init__(network, loss)
        for name, value in {"regularisation": regularisation, "scale": scale}.items():
            if not value > 0:
                raise InvalidValue(f"{name}={value}; give a number above 0, say 1.0")
        self.log_regularisation = nn.Parameter(torch.tensor(math.log(regularisation)))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.zeros(()))

    def figures(self) -> dict[str, Tensor]:
        return {"regularisation": self.log_regularisation.detach().exp(), "scale": self.log_scale.detach().exp()}

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        with at_least_float32(query.device):
            support, query = widened(support), widened(query)
            targets = F.one_hot(support_labels, n_way).to(support.dtype)
            weights = ridge(support, targets, self.log_regularisation.exp())
            return self.log_scale.exp() * (query @ weights) + self.bias


def ridge(inputs: Tensor, targets: Tensor, regularisation: Tensor) -> Tensor:
    """Weights (T, D, N) that minimise |X W - Y|^2 + lambda |W|^2 in each task: X^T (X X^T + lambda I)^-1 Y.

    Uses the Woodbury form (eq. 6): the linear system has the size of the support, not of the embedding.

    Args:
        inputs: X, (T, S, D).
        targets: Y, (T, S, N).
        regularisation: Lambda above 0, a scalar or (T, 1, 1).
    """
    identity = torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    gram = inputs @ inputs.transpose(1, 2) + regularisation * identity
    # never singular for lambda > 0; solve() would check that, and wait for the device
    solution, _ = torch.linalg.solve_ex(gram, targets)
    return inputs.transpose(1, 2) @ solution
