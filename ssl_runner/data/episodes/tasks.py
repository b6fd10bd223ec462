"""Which images make an episode: N classes, K support and Q query images of each, drawn for many tasks at once.

Every draw is a uniform number from a table that the caller made (`randomness.uniforms`), one row per task,
so that a task depends on its row and on nothing else.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.dataset import Dataset
from ssl_runner.errors import ConfigError, InvalidValue


@dataclass(frozen=True)
class Tasks:
    """T episodes as indices in a dataset, class-major: the class with label j stands at ``[j * K, (j + 1) * K)``.

    Attributes:
        support: int64 (T, n_way * k_shot).
        query: int64 (T, n_way * n_query), no image of it in the support of its task.
        n_way: Classes in a task.
    """

    support: Tensor
    query: Tensor
    n_way: int

    def __len__(self) -> int:
        return len(self.support)

    def __getitem__(self, rows: slice) -> "Tasks":
        return Tasks(self.support[rows], self.query[rows], self.n_way)

    @property
    def support_labels(self) -> Tensor:
        """int64 (T, n_way * k_shot) in [0, n_way)."""
        return self._labels(self.support)

    @property
    def query_labels(self) -> Tensor:
        """int64 (T, n_way * n_query) in [0, n_way)."""
        return self._labels(self.query)

    def _labels(self, indices: Tensor) -> Tensor:
        labels = torch.arange(self.n_way).repeat_interleave(indices.shape[1] // self.n_way)
        return labels.expand(len(indices), -1)


class TaskSampler:
    """Draws tasks from one split: classes uniform without replacement, then images uniform without replacement.

    The order is random too, so a class's label is a fresh one in each task, and whether an image is support or query
    is decided by chance. The cost does not depend on the number of classes or of images. Where classes have domains
    (`Dataset.class_domains`), a task's domain is drawn first, uniformly, and all its classes are of it.

    Args:
        dataset: Labelled images to draw from.
        n_way: Classes in a task.
        k_shot: Support images a class.
        n_query: Query images a class.
        setting: How an error names the setting to change; ``{}`` stands for ``n_way``, ``k_shot`` or ``n_query``.

    Raises:
        ValueError: If there are no labels.
        ConfigError: If there are fewer than n_way classes (of a domain, where there are any), a class of fewer than
            k_shot + n_query images, or both.

    Attributes:
        domains: Names of the domains, of which a task has one; empty without any.
    """

    def __init__(self, dataset: Dataset, n_way: int, k_shot: int, n_query: int, setting: str = "batching.{}") -> None:
        for name, value in {"n_way": n_way, "k_shot": k_shot, "n_query": n_query}.items():
            if value < 1:
                raise InvalidValue(f"{name}={value}, but a task needs at least 1; raise {setting.format(name)}")
        self.n_way, self.k_shot, self.n_query = n_way, k_shot, n_query
        labels = _labels(dataset)
        # Images of class c: order[starts[c] : starts[c] + counts[c]].
        self._order = np.argsort(labels, kind="stable")
        self._counts = np.bincount(labels, minlength=dataset.n_classes)
        self._starts = np.cumsum(self._counts) - self._counts
        self.domains = dataset.domains
        number = {name: place for place, name in enumerate(self.domains)}
        of_class = [number[name] for name in dataset.class_domains or ()] or [0] * len(self._counts)
        # Classes of domain d likewise: members[firsts[d] : firsts[d] + sizes[d]]; without domains there is one of all.
        self._members = np.argsort(of_class, kind="stable")
        self._sizes = np.bincount(of_class, minlength=1)
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self._check(dataset, setting)

    def sized(self, n_way: int, k_shot: int) -> "TaskSampler":
        """The same for tasks of at most as many ways and shots; nothing is sorted or checked again."""
        assert 1 <= n_way <= self.n_way and 1 <= k_shot <= self.k_shot, "larger tasks were not checked"
        sampler = copy.copy(self)
        sampler.n_way, sampler.k_shot = n_way, k_shot
        return sampler

    def within(self, domain: str) -> "TaskSampler":
        """The same for tasks of one domain only, whose draw takes no number."""
        number, sampler = self.domains.index(domain), copy.copy(self)
        first, size = self._firsts[number], self._sizes[number : number + 1]
        sampler.domains, sampler._members = (), self._members[first : first + size[0]]
        sampler._sizes, sampler._firsts = size, np.zeros(1, dtype=np.int64)
        return sampler

    @property
    def columns(self) -> int:
        """Uniform numbers that one task uses: classes first, then images, then, where there are domains, its domain."""
        return self.n_way * (1 + self.k_shot + self.n_query) + bool(self.domains)

    def __call__(self, table: np.ndarray) -> Tasks:
        """Tasks of a table (T, columns) of uniform numbers in [0, 1), one row a task."""
        if table.ndim != 2 or table.shape[1] != self.columns:
            raise InvalidValue(f"the table has shape {table.shape}; expected (tasks, {self.columns})")
        domain = self.drawn_domains(table)[:, None]
        classes = self._members[sample(table[:, : self.n_way], self._sizes[domain]) + self._firsts[domain]]
        of_images = slice(self.n_way, self.columns - bool(self.domains))
        numbers = table[:, of_images].reshape(len(table), self.n_way, -1)
        indices = sample(numbers, self._counts[classes][..., None]) + self._starts[classes][..., None]
        images = torch.from_numpy(self._order[indices])
        support, query = images[..., : self.k_shot], images[..., self.k_shot :]
        return Tasks(support.flatten(1), query.flatten(1), self.n_way)

    def drawn_domains(self, table: np.ndarray) -> np.ndarray:
        """The place in ``domains`` of each task of a table (T, columns), int64 (T,); all 0 without domains."""
        if not self.domains:
            return np.zeros(len(table), dtype=np.int64)
        drawn = (table[:, -1].astype(np.float64) * len(self.domains)).astype(np.int64)
        return np.minimum(drawn, len(self.domains) - 1)

    def _check(self, dataset: Dataset, setting: str) -> None:
        problems = []
        source, _, split = dataset.name.rpartition("/")
        where = f"split '{split}' of {source}" if source else split
        for name, size in zip(self.domains or ("",), self._sizes.tolist(), strict=True):
            if self.n_way > size:
                which = f"domain '{name}' of {where}" if name else where
                problems.append(f"n_way={self.n_way}, but {which} has {size} classes; lower {setting.format('n_way')}")
        needed = self.k_shot + self.n_query
        short = np.flatnonzero(self._counts < needed)
        if len(short):
            smallest = short[np.argmin(self._counts[short])]
            problems.append(
                f"k_shot={self.k_shot} and n_query={self.n_query} need {needed} images a class, but {where} has "
                f"{len(short)} smaller classes, the smallest '{dataset.class_names[smallest]}' with "
                f"{self._counts[smallest]}; lower {setting.format('k_shot')} or {setting.format('n_query')}"
            )
        if problems:
            raise ConfigError(problems)


def _labels(dataset: Dataset) -> np.ndarray:
    if dataset.labels is None:
        raise InvalidValue(f"{dataset.name} has no labels, but tasks are made of classes; choose a labelled dataset")
    return dataset.labels.numpy()


def sample(numbers: np.ndarray, population: np.ndarray) -> np.ndarray:
    """Ordered samples without replacement, int64 (..., k), from range(population); numbers (..., k) in [0, 1).

    The first k swaps of a Fisher-Yates shuffle, ``i <-> swaps[i]``, without the array that they shuffle: what ends at
    place i is found by undoing the swaps before it. float64 products: a float32 one may round up to the population.
    """
    steps = np.arange(numbers.shape[-1])
    swaps = steps + (numbers.astype(np.float64) * (population - steps)).astype(np.int64)
    swaps = np.minimum(swaps, population - 1)
    drawn = swaps.copy()
    for step in reversed(range(len(steps) - 1)):
        later = drawn[..., step + 1 :]
        later[later == swaps[..., step, None]] = step
    return drawn
