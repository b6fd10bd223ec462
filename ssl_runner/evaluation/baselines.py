"""Who classifies from a few images, and the rules that need no meta-learning to do so."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm, Classifier, class_means
from ssl_runner.algorithms.r2d2 import ridge
from ssl_runner.data.batching import on_device
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.tasks import Tasks
from ssl_runner.evaluation.features import dataset_features


@dataclass(frozen=True)
class Contender:
    """One that classifies the queries of tasks: an algorithm, or a baseline.

    Attributes:
        values: What it is given of the images that the tasks' places point to: they themselves or features, (N, ...).
        classify: Scores (T, Q, n_way) of support (T, S, ...), labels (T, S), queries (T, Q, ...) and n_way.
    """

    values: Tensor
    classify: Classifier

    def accuracies(self, tasks: Tasks, tasks_per_batch: int, device: torch.device) -> Tensor:
        """float64 (T,), one a task, of which so many are classified at once.

        Raises:
            ValueError: If scores have another shape.
        """
        found = []
        for start in range(0, len(tasks), tasks_per_batch):
            part = tasks[start : start + tasks_per_batch]
            scores = self.scores(part, device)
            expected = (*part.query.shape, part.n_way)
            if scores.shape != expected:
                raise ValueError(f"got scores {tuple(scores.shape)}; expected (T, Q, n_way) = {expected}")
            found.append((scores.argmax(dim=2).cpu() == part.query_labels).double().mean(dim=1))
        return torch.cat(found)

    def scores(self, tasks: Tasks, device: torch.device) -> Tensor:
        """(T, Q, n_way), all tasks at once."""
        support, query = (
            self.values[places.to(self.values.device)].to(device) for places in (tasks.support, tasks.query)
        )
        return self.classify(support, tasks.support_labels.to(device), query, tasks.n_way)


def ways_of(algorithm: Algorithm, dataset: Dataset, device: torch.device) -> dict[str, Contender]:
    """The algorithm as it is configured, under the name "", and each of its further `classifiers`, as ``/inductive``.

    Where it looks at one image at a time, each image is encoded once, not once an episode.
    """
    images = on_device(dataset.images, device)
    configured = Contender(images, algorithm.classify)
    if type(algorithm).classify is Algorithm.classify:
        found = algorithm.embed(dataset_features(algorithm.eval_encoder(), dataset, device))
        configured = Contender(found, algorithm.compare)
    further = {
        f"/{name}": configured if classify == algorithm.classify else Contender(images, classify)
        for name, classify in algorithm.classifiers().items()
    }
    return {"": configured, **further}


def of_pixels(rule: Classifier) -> Classifier:
    """A rule for features, asked about the pixels in [0, 1] of images uint8 (T, M, C, H, W)."""

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
    """Ridge from features to one-hot labels with a free bias, in closed form.

    It minimises |X W + b - Y|^2 + lambda |W|^2 in each task, lambda being ``share`` times the mean squared distance of
    the support from its mean: nothing is chosen by labels, and the scale of the features does not matter.
    """
    return partial(_ridge_regression, share)


def _ridge_regression(share: float, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    mean = support.mean(dim=1, keepdim=True)
    centred = support - mean
    targets = F.one_hot(labels, n_way).to(support.dtype)
    level = targets.mean(dim=1, keepdim=True)
    spread = centred.square().sum(dim=2).mean(dim=1)[:, None, None]
    smallest = torch.finfo(support.dtype).tiny  # images that are all alike
    weights = ridge(centred, targets - level, (share * spread).clamp_min(smallest))
    return (query - mean) @ weights + level
