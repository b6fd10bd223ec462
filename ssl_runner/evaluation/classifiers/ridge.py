"""Ridge regression on the support."""

import math

from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.baselines import ridge_regression
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier


class Ridge(TaskClassifier):
    """Ridge regression from L2-normalised features to one-hot labels, with an unpenalised bias, in closed form.

    Args:
        share: lambda as a share of the support's mean squared distance from its mean, above 0; see
            `ssl_runner.evaluation.baselines.ridge_regression`.

    Raises:
        ValueError: The share is out of range.
    """

    def __init__(self, share: float) -> None:
        if not 0 < share < math.inf:
            raise InvalidValue(f"share={share}; give a number above 0, say 0.3")
        self.share = share

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """The regression's predictions of the one-hot labels, (T, Q, n_way)."""
        return ridge_regression(self.share)(support, labels, query, n_way)

    def recipe(self) -> str:
        """In a sentence."""
        return f"ridge regression on L2-normalised features, lambda {self.share:g} of the support's spread"
