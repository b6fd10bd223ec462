"""The algorithms and baselines that classify few-shot tasks, behind one interface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm, Classifier
from ssl_runner.data.batching.batching import on_device
from ssl_runner.data.dataset import Dataset, Images
from ssl_runner.data.episodes.tasks import Tasks
from ssl_runner.data.episodes.varied_tasks import VariedTasks
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.features import features_at
from ssl_runner.runtime import progress


@dataclass(frozen=True)
class Contender:
    """An algorithm or a baseline that classifies the queries of tasks.

    Attributes:
        name: Its name in error messages.
        values: Its input for each image that the tasks' indices refer to: the images or their features, (N, ...).
        classify: Like `Algorithm.classify_by_all`, for such values.
    """

    name: str
    values: Images
    classify: Callable[[Tensor, Tensor, Tensor, int], dict[str, Tensor]]

    @classmethod
    def of_rule(cls, name: str, values: Images, rule: Classifier) -> "Contender":
        """A contender with a single way to classify."""
        return cls(name, values, lambda *task: {"": rule(*task)})

    @classmethod
    def of_algorithm(
        cls, algorithm: Algorithm, dataset: Dataset, all_tasks: Sequence[Tasks | VariedTasks], device: torch.device
    ) -> "Contender":
        """An algorithm that will classify these tasks of a dataset, and no others.

        If it looks at one image at a time, each image is encoded once rather than once per episode.
        """
        name = f"{type(algorithm).__name__}.classify"
        if type(algorithm).classify is not Algorithm.classify:
            return cls(name, on_device(dataset.images, device), algorithm.classify_by_all)
        found = algorithm.embed(features_at(algorithm.eval_encoder(), dataset, places(all_tasks), device))
        return cls.of_rule(name, found, algorithm.compare)

    def accuracies(self, tasks: Tasks | VariedTasks, tasks_per_batch: int, device: torch.device) -> dict[str, Tensor]:
        """The accuracy of each task, float64 (T,), for each way to classify.

        Args:
            tasks: The tasks to classify.
            tasks_per_batch: Number of tasks that are classified at once, if they have the same sizes.
            device: The device of the algorithm.

        Raises:
            ValueError: If the scores do not have the shape (T, Q, n_way).
        """
        found: dict[str, list[Tensor]] = {}
        done = 0
        for part in tasks.batches(tasks_per_batch):
            support, query = (
                self.values[indices.to(self.values.device)].to(device) for indices in (part.support, part.query)
            )
            expected = (*part.query.shape, part.n_way)
            for way, scores in self.classify(support, part.support_labels.to(device), query, part.n_way).items():
                if scores.shape != expected:
                    name = f"{self.name}, {way}," if way else self.name
                    raise InvalidValue(f"{name} returned {tuple(scores.shape)}; expected (T, Q, n_way) = {expected}")
                right = scores.argmax(dim=2).cpu() == part.query_labels
                found.setdefault(way, []).append(right.double().mean(dim=1))
            done += len(part)
            progress.at(done, len(tasks), "tasks")
        return {way: torch.cat(parts) for way, parts in found.items()}


def places(all_tasks: Sequence[Tasks | VariedTasks]) -> Tensor:
    """The indices of all images that tasks refer to, ascending, int64 (M,)."""
    return torch.cat([tasks.images() for tasks in all_tasks]).unique()
