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
from ssl_runner.data.episodes.tasks import Tasks, TaskSampler
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import process_group, randomness


class EpisodeBatching(Batching):
    """N-way K-shot tasks, drawn anew every step: classes, images and label numbers.

    Where ways or shots are a range, one number of each is drawn a step, the same on all processes, so that the tasks of
    a batch share a shape; ``images_per_step`` is then the mean, which is what rates of images a second need. Ways may
    grow through their range instead, for learners that stay at chance where they begin with the most (curriculum
    learning, Bengio et al. 2009); ``images_per_step`` is then of the most ways.

    Args:
        augmentation: Of support and query images, each with its own draws.
        n_way: Classes in a task, or ``[least, most]``; a range leaves ``n_outputs`` None.
        k_shot: Support images a class, or ``[least, most]``.
        n_query: Query images a class.
        tasks_per_batch: Tasks in a step.
        task_augmentation: Of whole tasks, after that of their images, or None.
        ways_grow_every: Steps after which tasks of a range of ways have one class more, from the least on; None where
            ways are drawn.

    Attributes:
        ways: The numbers of classes that a task may have.
        shots: The numbers of support images a class.
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
            raise InvalidValue(f"ways_grow_every={ways_grow_every}; give steps, at least 1, or null to draw the ways")
        self.n_query, self.tasks_per_batch, self.ways_grow_every = n_query, tasks_per_batch, ways_grow_every
        self.n_outputs, self.most_ways = self.ways[0] if len(self.ways) == 1 else None, self.ways[-1]
        # ways and shots are independent, so the mean of the product is the product of the means
        ways, shots = ((numbers[0] + numbers[-1]) / 2 for numbers in (self.ways, self.shots))
        ways = ways if ways_grow_every is None else self.ways[-1]
        self.images_per_step = round(tasks_per_batch * ways * (shots + n_query))

    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        process_group.rows(
            self.tasks_per_batch, "batching.tasks_per_batch"
        )  # refused where processes cannot share them
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
        """Ways and shots of a step."""
        way, shot = randomness.uniforms(self.seed, "ways and shots", step, 1, 2)[0].tolist()
        # as Python's floats, in which a product with a number below 1 stays below
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
        images = self._changed(self.augmentation(images, draws).unflatten(0, tuple(indices.shape)), tasks, step)
        support, query = images.split([tasks.support.shape[1], tasks.query.shape[1]], dim=1)
        support_labels, query_labels = (
            torch.arange(n_way, device=self.device).repeat_interleave(a_class).repeat(len(tasks), 1)
            for a_class in (k_shot, self.n_query)
        )
        domains = {name: to_device(weight[rows], self.device) for name, weight in weights.items()}
        return Episodes(support, support_labels, query, query_labels, n_way, domains)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains whose tasks are told apart: none where they are more than the tasks of a step."""
        names = self.sampler.domains
        return names if len(names) <= self.tasks_per_batch else ()

    def _domain_weights(self, draws: np.ndarray) -> dict[str, Tensor]:
        """`Episodes.domains` of a whole step, less those that it has no task of."""
        drawn = torch.from_numpy(self.sampler.drawn_domains(draws))
        members = {name: (drawn == number).float() for number, name in enumerate(self.domains)}
        return {name: found / found.mean() for name, found in members.items() if found.any()}

    def _changed(self, images: Tensor, tasks: Tasks, step: int) -> Tensor:
        """Images (T, M, C, H, W) of a step's tasks, changed task by task."""
        if self.task_augmentation is None:
            return images
        columns = self.task_augmentation.columns(tasks.n_way, *images.shape[-2:])
        draws = own_draws(self.seed, "task augmentation", step, 1, self.tasks_per_batch, columns)
        labels = torch.cat([tasks.support_labels, tasks.query_labels], dim=1)
        return self.task_augmentation(images, labels, tasks.n_way, draws)


def inclusive(name: str, value: int | list[int]) -> range:
    """A number, or ``[least, most]``, as the numbers that it stands for.

    Args:
        name: For messages.

    Raises:
        ValueError: It is below 1, reversed, or no pair.
    """
    bounds = [value, value] if isinstance(value, int) else list(value)
    if len(bounds) != 2:
        raise InvalidValue(f"{name}={bounds} has {len(bounds)} numbers; give one, or a range as [least, most]")
    least, most = bounds
    if min(bounds) < 1:
        raise InvalidValue(f"{name}={value}; it must be at least 1")
    if least > most:
        raise InvalidValue(f"{name}={value} is a range from more to less; write [{most}, {least}]")
    return range(least, most + 1)
