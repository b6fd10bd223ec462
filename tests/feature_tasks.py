"""Few-shot tasks of real images as features in float64, and how classifiers are called on them."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.tasks import TaskSampler
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier
from ssl_runner.runtime import randomness


@dataclass(frozen=True)
class FeatureTasks:
    """T tasks: support (T, S, D), labels (T, S), query (T, Q, D), query labels (T, Q)."""

    support: Tensor
    labels: Tensor
    query: Tensor
    query_labels: Tensor
    n_way: int


def of_pixels(dataset: Dataset, ways: int, shots: int, queries: int = 4, n: int = 3) -> FeatureTasks:
    sampler = TaskSampler(dataset, ways, shots, queries)
    tasks = sampler(randomness.uniforms(0, "few_shot", 0, n, sampler.columns))
    pixels = dataset.images.flatten(1).double() / 255
    return FeatureTasks(
        pixels[tasks.support], tasks.support_labels, pixels[tasks.query], tasks.query_labels, tasks.n_way
    )


def scores(classifier: TaskClassifier, tasks: FeatureTasks, mean: Tensor | None = None) -> Tensor:
    """Scores (T, Q, n_way) for raw features, embedded as the classifier does it."""
    both = [embedded(classifier, part, mean) for part in (tasks.support, tasks.query)]
    with torch.no_grad():
        return classifier.scores(both[0], tasks.labels, both[1], tasks.n_way)


def embedded(classifier: TaskClassifier, features: Tensor, mean: Tensor | None = None) -> Tensor:
    center = features.new_full(features.shape[-1:], 0.2) if mean is None else mean
    flat = SimpleNamespace(features=features.flatten(0, 1), training_mean=center)
    return classifier.embed(flat).unflatten(0, features.shape[:2])  # pyright: ignore[reportArgumentType]
