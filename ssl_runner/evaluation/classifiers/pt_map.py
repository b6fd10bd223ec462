"""Power transform and maximum a posteriori by optimal transport."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier
from ssl_runner.evaluation.classifiers.encoded import Encoded

EPS = 1e-6  # added to features, as in the paper


class PTMap(TaskClassifier):
    """PT-MAP (Hu et al. 2020, arXiv:2006.03806): features are raised to a power, then class centers and a soft
    assignment of the queries, by Sinkhorn's algorithm, take turns.

    It assumes that a task has equally many queries of each class. Few-shot episodes have, other data may not; there it
    is forced to be wrong.

    As in the authors' code, support and queries are each centred by their own mean and L2-normalised after the power
    transform. The paper's features are at least 0, since they come out of a ReLU; of others the sign is kept and the
    size is raised to the power, which is the same for those. Sinkhorn's iterations are of a fixed number, and each
    assignment starts from the scales of the one before.

    Args:
        power: beta, above 0; 1 leaves the features as they are.
        strength: lambda, by which squared distances are multiplied, above 0.
        rate: alpha, the share of its way to the new estimate that a center goes in a step, in (0, 1].
        steps: Steps of the centers, at least 1.
        sinkhorn_iterations: In each step, at least 1.

    Raises:
        ValueError: A number is out of range.
    """

    transductive: ClassVar[bool] = True

    def __init__(self, power: float, strength: float, rate: float, steps: int, sinkhorn_iterations: int) -> None:
        for name, value in {"power": power, "strength": strength}.items():
            if not 0 < value < math.inf:
                raise InvalidValue(f"{name}={value}; give a number above 0")
        if not 0 < rate <= 1:
            raise InvalidValue(f"rate={rate}; give a share in (0, 1], say 0.2")
        for name, number in {"steps": steps, "sinkhorn_iterations": sinkhorn_iterations}.items():
            if number < 1:
                raise InvalidValue(f"{name}={number}; give at least 1")
        self.power, self.strength, self.rate = power, strength, rate
        self.steps, self.sinkhorn_iterations = steps, sinkhorn_iterations

    def embed(self, encoded: Encoded) -> Tensor:
        """Features after the power transform, (N, D)."""
        return self.transformed(encoded.features)

    def transformed(self, features: Tensor) -> Tensor:
        """Raised to the power, sign kept, and L2-normalised (eq. 1)."""
        powered = (features.abs() + EPS).pow(self.power)
        return F.normalize(torch.where(features < 0, -powered, powered), dim=-1)

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Logarithms of the queries' assignments, (T, Q, n_way)."""
        support, query = (F.normalize(points - points.mean(dim=1, keepdim=True), dim=2) for points in (support, query))
        members = F.one_hot(labels, n_way).to(support.dtype)
        counts = members.sum(dim=1)[..., None]
        centers, scales = class_means(support, labels, n_way), query.new_zeros(len(query), 1, n_way)
        for _ in range(self.steps):
            logs, scales = self.assigned(query, centers, scales)
            shares = logs.exp()
            estimates = members.mT @ support + shares.mT @ query
            estimates = estimates / (counts + shares.sum(dim=1)[..., None])
            centers = centers + self.rate * (estimates - centers)
        return self.assigned(query, centers, scales)[0]

    def assigned(self, query: Tensor, centers: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the assignment (T, Q, n_way), and of its column scales (T, 1, n_way), from which to go on.

        Its entries are exp(-lambda distance^2), times scales of rows and columns such that a row sums to 1 and a column
        to Q / n_way (eq. 5). The last scaling is of the columns, so the rows are right only after convergence.
        """
        each = math.log(query.shape[1] / centers.shape[1])
        costs = self.strength * torch.cdist(query, centers, compute_mode="donot_use_mm_for_euclid_dist").square()
        logs = -costs
        rows = logs[..., :1]
        for _ in range(self.sinkhorn_iterations):
            rows = (logs + scales).logsumexp(dim=2, keepdim=True)
            scales = each - (logs - rows).logsumexp(dim=1, keepdim=True)
        return logs - rows + scales, scales

    def recipe(self) -> str:
        """In a sentence."""
        return (
            f"PT-MAP, which assumes equally many queries of each class: power {self.power:g}, lambda "
            f"{self.strength:g}, alpha {self.rate:g}, {self.steps} steps of {self.sinkhorn_iterations} iterations"
        )
