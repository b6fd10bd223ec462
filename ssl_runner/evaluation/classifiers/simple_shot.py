"""Nearest class mean of centred features."""

import torch.nn.functional as F
from torch import Tensor

from ssl_runner.evaluation.baselines import nearest_mean
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier
from ssl_runner.evaluation.classifiers.encoded import Encoded


class SimpleShot(TaskClassifier):
    """SimpleShot with CL2N (Wang et al. 2019, arXiv:1911.04623): features are centred, L2-normalised, then compared
    with class means.

    The center is the mean feature of the run's training images, not of the judged ones, so a prediction depends on no
    other query. With more than 10,000 training images it is that of 10,000 or fewer, evenly spread (the paper: all).
    """

    def embed(self, encoded: Encoded) -> Tensor:
        """Centred and normalised features, (N, D)."""
        return F.normalize(encoded.features - encoded.training_mean, dim=1)

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Minus the squared distance to each class mean, (T, Q, n_way)."""
        return nearest_mean(support, labels, query, n_way)

    def recipe(self) -> str:
        """In a sentence."""
        return "nearest class mean of features that are centred by the training images' mean and L2-normalised (CL2N)"
