"""Tasks of Meta-Dataset's sizes: each has its own number of classes, and its classes have their own numbers of shots.

A task is a function of (seed, stream, number), where the number is its place among all tasks of the stream.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.class_index import ClassIndex, where
from ssl_runner.data.episodes.tasks import Tasks
from ssl_runner.errors import ConfigError, InvalidValue
from ssl_runner.runtime import randomness


@dataclass(frozen=True)
class Limits:
    """Bounds of the sizes of a task.

    Attributes:
        least_ways: Fewest classes, at least 1.
        most_ways: Most classes, if there are so many.
        n_query: Most queries per class, at least 1.
        support_size: Most support images of all classes together, at least ``most_ways``.
        support_per_class: Most images that a class contributes to the size of the support, at least 1. A class may have
            more shots, if others have fewer.
        imbalance: The factor by which a class is weighted more or less than its size suggests is at most this, and at
            least 1 over this; at least 1.

    Raises:
        ValueError: A number is out of range.
    """

    least_ways: int
    most_ways: int
    n_query: int
    support_size: int
    support_per_class: int
    imbalance: float

    def __post_init__(self) -> None:
        for name in ("n_query", "support_per_class", "imbalance"):
            if not getattr(self, name) >= 1:
                raise InvalidValue(f"{name}={getattr(self, name)}; it must be at least 1")
        if not self.imbalance < math.inf:
            raise InvalidValue(f"imbalance={self.imbalance}; give a number, 2 as in Meta-Dataset")
        if self.support_size < self.most_ways:
            raise InvalidValue(
                f"support_size={self.support_size}, but a task of {self.most_ways} ways needs an image of each class; "
                f"give at least {self.most_ways}"
            )


META_DATASET = Limits(least_ways=5, most_ways=50, n_query=10, support_size=500, support_per_class=100, imbalance=2.0)


class Sizes(NamedTuple):
    """The sizes of one task.

    Attributes:
        shots: int64 (n_way,): support images of each class.
        n_query: Queries of each class.
    """

    shots: np.ndarray
    n_query: int

    @property
    def images(self) -> int:
        return int(self.shots.sum()) + len(self.shots) * self.n_query


@dataclass(frozen=True)
class VariedTasks:
    """Tasks of different sizes, one after another; each is a `Tasks` of length 1."""

    tasks: tuple[Tasks, ...]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, rows: slice) -> "VariedTasks":
        return VariedTasks(self.tasks[rows])

    def batches(self, size: int) -> Iterator[Tasks]:
        """The tasks in order, one at a time whatever the size: they cannot be stacked."""
        return iter(self.tasks)

    def images(self) -> Tensor:
        """Indices of all images, int64 (M,), repeated as often as they occur."""
        return torch.cat([task.images() for task in self.tasks])

    def probe(self) -> Tasks:
        """The task with the most classes, with one query of each, to find out whether such tasks can be classified."""
        return max(self.tasks, key=lambda task: task.n_way).probe()


class VariedTaskSampler:
    """Draws tasks as Meta-Dataset does (Triantafillou et al. 2020, arXiv:1903.03096, sec. 3.2 and its code).

    - The number of ways is uniform between the limits; the upper one is the number of classes if there are fewer.
    - Classes are uniform without replacement; with domains (`Dataset.class_domains`), the domain is uniform first.
    - Every class has q queries: ``n_query``, or half of the smallest class if that is less.
    - The support has sum_c ceil(beta min(``support_per_class``, |c| - q)) images, at most ``support_size``, with beta
      uniform in (0, 1].
    - Class c gets min(floor(R_c (support - ways)) + 1, |c| - q) of them, where R_c is proportional to |c| e^alpha and
      alpha is uniform in [-log ``imbalance``, log ``imbalance``], separately for each class. So every class has a shot.

    Deviations: the hierarchies by which Meta-Dataset chooses classes of ImageNet (WordNet) and Omniglot (alphabets) are
    not used; all of these are drawn uniformly.

    Args:
        dataset: Labelled images to draw from.
        limits: Bounds of the sizes.
        remedy: What to do if the dataset has too few classes, for the message.

    Raises:
        ValueError: If there are no labels.
        ConfigError: If there are too few classes (in a domain, if there are any), or a class has fewer than two images.
    """

    def __init__(self, dataset: Dataset, limits: Limits, remedy: str) -> None:
        self.limits = limits
        self._index = ClassIndex(dataset)
        problems = []
        for name, size in zip(self.domains or ("",), self._index.sizes.tolist(), strict=True):
            if size < limits.least_ways:
                least = f"tasks of different sizes have at least {limits.least_ways} ways"
                problems.append(f"{least}, but {where(dataset, name)} has {size} classes; {remedy}")
        short = np.flatnonzero(self._index.counts < 2)
        if len(short):
            named, n = dataset.class_names[short[0]], self._index.counts[short[0]]
            problems.append(
                f"a class needs 2 images, one for support and one query, but {len(short)} classes of {where(dataset)} "
                f"have fewer, first '{named}' with {n}; leave them out, or choose another dataset"
            )
        if problems:
            raise ConfigError(problems)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, one of which each task has; empty if there are none."""
        return self._index.domains

    def within(self, domain: str) -> "VariedTaskSampler":
        """A sampler of tasks of one domain only."""
        sampler = copy.copy(self)
        sampler._index = self._index.within(domain)
        return sampler

    def __call__(self, seed: int, stream: str, number: int) -> Tasks:
        """The task with this number, as `Tasks` of length 1."""
        classes, sizes = self.drawn(seed, stream, number)
        columns = int(sizes.shots.max()) + sizes.n_query
        return self._task(classes, sizes, randomness.uniforms(seed, f"{stream}/images", number, len(classes), columns))

    def drawn(self, seed: int, stream: str, number: int) -> tuple[np.ndarray, Sizes]:
        """The classes of a task, in the order of their labels, and its sizes."""
        most = self.limits.most_ways
        row = randomness.uniforms(seed, f"{stream}/sizes", number, 1, 3 + 2 * most).astype(np.float64)
        domain = self._index.drawn_domains(row[:, 0])
        choices = min(most, int(self._index.sizes[domain[0]])) - self.limits.least_ways + 1
        n_way = self.limits.least_ways + min(int(row[0, 1] * choices), choices - 1)
        classes = self._index.drawn_classes(row[:, 3 : 3 + n_way], domain)[0]
        return classes, self._sizes(classes, 1 - row[0, 2], row[0, 3 + most :][:n_way])

    def largest(self) -> Tasks:
        """A task of the largest size: of most classes, the biggest ones, with as much support as possible."""
        found = []
        for number in range(len(self._index.sizes)):
            classes = self._index.classes_of(number)
            biggest = classes[np.argsort(-self._index.counts[classes], kind="stable")][: self.limits.most_ways]
            found.append((biggest, self._sizes(biggest, 1.0, np.full(len(biggest), 0.5))))
        classes, sizes = max(found, key=lambda one: one[1].images)
        return self._task(classes, sizes, np.zeros((len(classes), int(sizes.shots.max()) + sizes.n_query)))

    def _sizes(self, classes: np.ndarray, beta: float, alphas: np.ndarray) -> Sizes:
        """Sizes from beta in (0, 1] and uniform numbers (n_way,) in [0, 1) for the alphas."""
        counts = self._index.counts[classes]
        n_query = min(self.limits.n_query, int(counts.min()) // 2)
        left = counts - n_query
        support = np.ceil(beta * np.minimum(self.limits.support_per_class, left)).sum()
        support = min(support, self.limits.support_size)
        weights = counts * np.exp(math.log(self.limits.imbalance) * (2 * alphas - 1))
        shots = np.floor(weights / weights.sum() * (support - len(classes))).astype(np.int64) + 1
        return Sizes(np.minimum(shots, left), n_query)

    def _task(self, classes: np.ndarray, sizes: Sizes, numbers: np.ndarray) -> Tasks:
        """A task from uniform numbers (n_way, n_query + most shots)."""
        images = self._index.drawn_images(numbers, classes)
        query, rest = images[:, : sizes.n_query], images[:, sizes.n_query :]
        support = rest[np.arange(rest.shape[1]) < sizes.shots[:, None]]  # class by class
        indices = (torch.from_numpy(part.reshape(1, -1)) for part in (support, query))
        return Tasks(*indices, n_way=len(classes), shots=torch.from_numpy(sizes.shots))
