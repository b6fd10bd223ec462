"""Batches of few-shot tasks."""

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.data.batches import Episodes
from ssl_runner.data.batching.batching import Batching, gather, on_device, own_draws
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.task_augmentation import TaskAugmentation
from ssl_runner.data.episodes.tasks import Tasks, TaskSampler, sorted_labels
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import process_group, randomness


class EpisodeBatching(Batching):
    """N-way K-shot tasks. Classes, images and the numbering of labels are drawn at every step.

    If ways or shots are a range, one number of each is drawn per step, the same on all processes, so that the tasks of
    a batch have the same shape. ``images_per_step`` is then the mean, which is what images per second need. Instead,
    ways may grow through their range, for learners that stay at chance if they start with the most ways (curriculum
    learning, Bengio et al. 2009). ``images_per_step`` is then that of the most ways.

    Args:
        augmentation: Augmentation of support and query images, each with its own draws.
        n_way: Classes in a task, or ``[least, most]``; with a range, ``n_outputs`` is None.
        k_shot: Support images per class, or ``[least, most]``.
        n_query: Query images per class.
        tasks_per_batch: Tasks in a step.
        task_augmentation: Augmentation of whole tasks, applied after that of their images, or None.
        ways_grow_every: Number of steps after which tasks get one more class, starting with the smallest number of the
            range; None to draw the ways.

    Attributes:
        ways: The possible numbers of classes in a task.
        shots: The possible numbers of support images per class.
    """

    batch_type = Episodes

    def __init__(
        self,
        augmentation: Augmentation,
        n_way: int | list[int],
        k_shot: int | list[int],
        n_query: int,
        tasks_per_batch: int,
        task_augmentation: TaskAugmentation | None = None,
        ways_grow_every: int | None = None,
    ) -> None:
        for name, value in {"n_query": n_query, "tasks_per_batch": tasks_per_batch}.items():
            if value < 1:
                raise InvalidValue(f"{name}={value}; it must be at least 1")
        self.augmentation, self.task_augmentation = augmentation, task_augmentation
        self.ways, self.shots = inclusive("n_way", n_way), inclusive("k_shot", k_shot)
        if ways_grow_every is not None and ways_grow_every < 1:
            raise InvalidValue(f"ways_grow_every={ways_grow_every}; give at least 1 step, or null to draw the ways")
        self.n_query, self.tasks_per_batch, self.ways_grow_every = n_query, tasks_per_batch, ways_grow_every
        self.n_outputs, self.most_ways = self.ways[0] if len(self.ways) == 1 else None, self.ways[-1]
        # ways and shots are independent, so the mean of the product is the product of the means
        ways, shots = ((numbers[0] + numbers[-1]) / 2 for numbers in (self.ways, self.shots))
        ways = ways if ways_grow_every is None else self.ways[-1]
        self.images_per_step = round(tasks_per_batch * ways * (shots + n_query))

    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        process_group.rows(
            self.tasks_per_batch, "batching.tasks_per_batch"
        )  # raises an error if the processes cannot share them evenly
        self.sampler = TaskSampler(dataset, self.ways[-1], self.shots[-1], self.n_query)
        if self.task_augmentation is not None:
            self.task_augmentation.check(dataset)
        self.seed, self.device = seed, device
        self.images = on_device(dataset.images, device)

    def batch(self, step: int) -> Episodes:
        return self._batch(step, *self.shape(step))

    def largest(self) -> Episodes:
        return self._batch(0, self.ways[-1], self.shots[-1])

    def shape(self, step: int) -> tuple[int, int]:
        """Ways and shots at a step."""
        way, shot = randomness.uniforms(self.seed, "ways and shots", step, 1, 2)[0].tolist()
        # as Python floats, where a product with a number below 1 stays below
        place = int(way * len(self.ways))
        if self.ways_grow_every is not None:
            place = min(step // self.ways_grow_every, len(self.ways) - 1)
        return self.ways[place], self.shots[int(shot * len(self.shots))]

    def _batch(self, step: int, n_way: int, k_shot: int) -> Episodes:
        sampler = self.sampler.sized(n_way, k_shot)
        draws = randomness.uniforms(self.seed, "tasks", step, self.tasks_per_batch, sampler.columns)
        rows = process_group.rows(self.tasks_per_batch, "batching.tasks_per_batch")
        tasks, weights = sampler(draws[rows]), self._domain_weights(draws)
        indices = torch.cat([tasks.support, tasks.query], dim=1)  # (T, N K + N Q)
        whole = indices.numel() * process_group.size()
        draws = own_draws(self.seed, "augmentation", step, 1, whole, self.augmentation.columns)
        images = gather(self.images, indices.flatten(), self.device)
        images = self.augment(self.augmentation, images, draws).unflatten(0, tuple(indices.shape))
        images = self._changed(images, tasks, step)
        support, query = images.split([tasks.support.shape[1], tasks.query.shape[1]], dim=1)
        support_labels, query_labels = (
            sorted_labels(len(tasks), n_way, a_class, self.device) for a_class in (k_shot, self.n_query)
        )
        domains = {name: to_device(weight[rows], self.device) for name, weight in weights.items()}
        return Episodes(support, support_labels, query, query_labels, n_way, domains)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains whose accuracies are reported separately: none if there are more domains than tasks in a step."""
        names = self.sampler.domains
        return names if len(names) <= self.tasks_per_batch else ()

    def _domain_weights(self, draws: np.ndarray) -> dict[str, Tensor]:
        """`Episodes.domains` of a whole step, without domains that have no task in it."""
        drawn = torch.from_numpy(self.sampler.drawn_domains(draws))
        members = {name: (drawn == number).float() for number, name in enumerate(self.domains)}
        return {name: weights / weights.mean() for name, weights in members.items() if weights.any()}

    def _changed(self, images: Tensor, tasks: Tasks, step: int) -> Tensor:
        """A step's images (T, M, C, H, W) after the task augmentation."""
        if self.task_augmentation is None:
            return images
        columns = self.task_augmentation.columns(tasks.n_way, *images.shape[-2:])
        draws = own_draws(self.seed, "task augmentation", step, 1, self.tasks_per_batch, columns)
        labels = torch.cat([tasks.support_labels, tasks.query_labels], dim=1)
        return self.task_augmentation(images, labels, tasks.n_way, draws)


def inclusive(name: str, value: int | list[int]) -> range:
    """The range of numbers given by a single number or by ``[least, most]``.

    Args:
        name: Name of the setting, for messages.

    Raises:
        ValueError: A number is below 1, the range is reversed, or it is not a pair.
    """
    bounds = [value, value] if isinstance(value, int) else list(value)
    if len(bounds) != 2:
        raise InvalidValue(f"{name}={bounds} has {len(bounds)} numbers; give one, or a range as [least, most]")
    least, most = bounds
    if min(bounds) < 1:
        raise InvalidValue(f"{name}={value}; it must be at least 1")
    if least > most:
        raise InvalidValue(f"{name}={value} is a reversed range; write [{most}, {least}]")
    return range(least, most + 1)
