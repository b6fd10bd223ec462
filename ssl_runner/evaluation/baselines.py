"""Rules that classify from a few images without meta-learning."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.algorithm import Classifier, class_means
from ssl_runner.algorithms.r2d2 import ridge


def of_pixels(rule: Classifier) -> Classifier:
    """A rule for features, applied to the pixels in [0, 1] of images uint8 (T, M, C, H, W)."""

    def classify(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        support, query = (images.flatten(2).float() / 255 for images in (support, query))
        return rule(support, labels, query, n_way)

    return classify


def nearest_neighbour(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Minus the squared Euclidean distance to the nearest image of each class, (T, Q, n_way)."""
    distances = torch.cdist(query, support, compute_mode="donot_use_mm_for_euclid_dist").square()
    others = F.one_hot(labels, n_way)[:, None] == 0  # (T, 1, S, n_way)
    return -distances[..., None].masked_fill(others, torch.inf).amin(dim=2)


def nearest_mean(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Minus the squared Euclidean distance to the mean of each class, (T, Q, n_way)."""
    means = class_means(support, labels, n_way)
    return -torch.cdist(query, means, compute_mode="donot_use_mm_for_euclid_dist").square()


def ridge_regression(share: float) -> Classifier:
    """Ridge regression from features to one-hot labels with an unpenalised bias, in closed form.

    It minimises |X W + b - Y|^2 + lambda |W|^2 in each task, where lambda is ``share`` times the mean squared distance
    of the support from its mean. So labels choose nothing, and the scale of the features does not matter.
    """
    return partial(_ridge_regression, share)


def _ridge_regression(share: float, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    mean = support.mean(dim=1, keepdim=True)
    centered = support - mean
    targets = F.one_hot(labels, n_way).to(support.dtype)
    level = targets.mean(dim=1, keepdim=True)
    spread = centered.square().sum(dim=2).mean(dim=1)[:, None, None]
    smallest = torch.finfo(support.dtype).tiny  # in case all images are equal
    weights = ridge(centered, targets - level, (share * spread).clamp_min(smallest))
    return (query - mean) @ weights + level
