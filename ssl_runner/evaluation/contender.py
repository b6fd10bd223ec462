"""Who classifies from a few images, and how it is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm, Classifier
from ssl_runner.data.batching.batching import on_device
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.tasks import Tasks
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.features import features_at


@dataclass(frozen=True)
class Contender:
    """One that classifies the queries of tasks: an algorithm, or a baseline.

    Attributes:
        name: For an error.
        values: What it is given of the images that the tasks' indices point to: they themselves or features, (N, ...).
        classify: As `Algorithm.classify_by_all`, of such values.
    """

    name: str
    values: Tensor
    classify: Callable[[Tensor, Tensor, Tensor, int], dict[str, Tensor]]

    @classmethod
    def of_rule(cls, name: str, values: Tensor, rule: Classifier) -> "Contender":
        """One that has one way to classify."""
        return cls(name, values, lambda *task: {"": rule(*task)})

    @classmethod
    def of_algorithm(
        cls, algorithm: Algorithm, dataset: Dataset, asked: Sequence[Tasks], device: torch.device
    ) -> "Contender":
        """An algorithm that will be asked these tasks of a dataset, and no others.

        Where it looks at one image at a time, each image is encoded once, not once an episode.
        """
        name = f"{type(algorithm).__name__}.classify"
        if type(algorithm).classify is not Algorithm.classify:
            return cls(name, on_device(dataset.images, device), algorithm.classify_by_all)
        indices = torch.cat([some.flatten() for tasks in asked for some in (tasks.support, tasks.query)]).unique()
        found = algorithm.embed(features_at(algorithm.eval_encoder(), dataset, indices, device))
        return cls.of_rule(name, found, algorithm.compare)

    def accuracies(self, tasks: Tasks, tasks_per_batch: int, device: torch.device) -> dict[str, Tensor]:
        """float64 (T,), one a task, of each way to classify; so many tasks are classified at once.

        Raises:
            ValueError: If scores have another shape than (T, Q, n_way).
        """
        found: dict[str, list[Tensor]] = {}
        for start in range(0, len(tasks), tasks_per_batch):
            part = tasks[start : start + tasks_per_batch]
            support, query = (
                self.values[indices.to(self.values.device)].to(device) for indices in (part.support, part.query)
            )
            expected = (*part.query.shape, part.n_way)
            for way, scores in self.classify(support, part.support_labels.to(device), query, part.n_way).items():
                if scores.shape != expected:
                    name = f"{self.name}, {way}," if way else self.name
                    raise InvalidValue(f"{name} gave {tuple(scores.shape)}; expected (T, Q, n_way) = {expected}")
                right = scores.argmax(dim=2).cpu() == part.query_labels
                found.setdefault(way, []).append(right.double().mean(dim=1))
        return {way: torch.cat(parts) for way, parts in found.items()}
