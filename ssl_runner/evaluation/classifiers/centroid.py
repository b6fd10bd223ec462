"""Nearest class mean."""

from torch import Tensor

from ssl_runner.evaluation.baselines import nearest_mean
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier


class Centroid(TaskClassifier):
    """Nearest class mean of L2-normalised features by Euclidean distance (Wang et al. 2019, arXiv:1911.04623, L2N).

    It is how an algorithm classifies that has no way of its own (`Algorithm.compare`).
    """

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Minus the squared distance to each class mean, (T, Q, n_way)."""
        return nearest_mean(support, labels, query, n_way)

    def recipe(self) -> str:
        """In a sentence."""
        return "nearest class mean of L2-normalised features"
