"""Batches of one few-shot task whose sizes are drawn, too."""

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.data.batches import Episodes
from ssl_runner.data.batching.batching import Batching, gather, on_device
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.episode_batching import inclusive
from ssl_runner.data.episodes.task_augmentation import TaskAugmentation
from ssl_runner.data.episodes.tasks import Tasks
from ssl_runner.data.episodes.varied_tasks import Limits, VariedTaskSampler
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import process_group, randomness

STREAM = "varied tasks"
COUNTED = 256  # tasks whose mean size stands for that of all


class VariedEpisodeBatching(Batching):
    """Tasks with their own ways, shots and imbalance, as Meta-Dataset draws them (`VariedTaskSampler`).

    Tasks of different sizes cannot be stacked, so a step has one task, as in the paper, and a run one process: batch
    normalisation over several ones counts all of them equally. The task of a step is a function of (seed, step).
    ``images_per_step`` is a mean, which is what images per second need.

    Args:
        augmentation: Augmentation of support and query images, each with its own draws.
        n_way: Fewest and most classes in a task, ``[5, 50]`` in the paper, or one number; with a range, ``n_outputs``
            is None. If a dataset (or domain) has fewer classes than the most, all of them are the most.
        n_query: Most queries per class (10 in the paper); at most half of the smallest class is used.
        support_size: Most support images of a task (500 in the paper), at least the most ways.
        support_per_class: Most images that a class contributes to the size of the support (100 in the paper).
        imbalance: Bound of the factor by which a class has more or fewer shots than its size suggests, at least 1 (2
            in the paper).
        task_augmentation: Augmentation of whole tasks, applied after that of their images, or None.

    Attributes:
        ways: The possible numbers of classes in a task, if the dataset has so many.
        limits: Bounds of the sizes of a task.
    """

    batch_type = Episodes

    def __init__(
        self,
        augmentation: Augmentation,
        n_way: int | list[int],
        n_query: int,
        support_size: int,
        support_per_class: int,
        imbalance: float,
        task_augmentation: TaskAugmentation | None,
    ) -> None:
        self.augmentation, self.task_augmentation = augmentation, task_augmentation
        self.ways = inclusive("n_way", n_way)
        self.limits = Limits(self.ways[0], self.ways[-1], n_query, support_size, support_per_class, imbalance)
        self.n_outputs, self.most_ways = self.ways[0] if len(self.ways) == 1 else None, self.ways[-1]
        self.images_per_step = support_size + self.ways[-1] * n_query  # until it is bound

    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        if process_group.size() > 1:
            raise InvalidValue(
                f"tasks of different sizes cannot be stacked, so a step has one task, which {process_group.size()} "
                "processes cannot share; start one process, or choose batching=episodes_5w1s"
            )
        self.sampler = self.sampler_of(dataset)
        if self.task_augmentation is not None:
            self.task_augmentation.check(dataset)
        self.seed, self.device = seed, device
        self.images = on_device(dataset.images, device)
        sizes = [self.sampler.drawn(seed, STREAM, number)[1].images for number in range(COUNTED)]
        self.images_per_step = round(float(np.mean(sizes)))

    def sampler_of(self, dataset: Dataset) -> VariedTaskSampler:
        """A sampler of such tasks from any dataset."""
        return VariedTaskSampler(dataset, self.limits, "lower batching.n_way")

    def batch(self, step: int) -> Episodes:
        return self._episodes(self.sampler(self.seed, STREAM, step), step)

    def largest(self) -> Episodes:
        return self._episodes(self.sampler.largest(), 0)

    def _episodes(self, task: Tasks, step: int) -> Episodes:
        indices = torch.cat([task.support, task.query], dim=1)  # (1, S + Q)
        draws = randomness.uniforms(self.seed, "augmentation", step, indices.numel(), self.augmentation.columns)
        images = gather(self.images, indices.flatten(), self.device)
        images = self.augment(self.augmentation, images, torch.from_numpy(draws)).unflatten(0, tuple(indices.shape))
        images = self._changed(images, task, step)
        support, query = images.split([task.support.shape[1], task.query.shape[1]], dim=1)
        labels = (to_device(part, self.device) for part in (task.support_labels, task.query_labels))
        support_labels, query_labels = labels
        return Episodes(support, support_labels, query, query_labels, task.n_way)

    def _changed(self, images: Tensor, task: Tasks, step: int) -> Tensor:
        """A task's images (1, M, C, H, W) after the task augmentation."""
        if self.task_augmentation is None:
            return images
        columns = self.task_augmentation.columns(task.n_way, *images.shape[-2:])
        draws = torch.from_numpy(randomness.uniforms(self.seed, "task augmentation", step, 1, columns))
        labels = torch.cat([task.support_labels, task.query_labels], dim=1)
        return self.task_augmentation(images, labels, task.n_way, draws)
