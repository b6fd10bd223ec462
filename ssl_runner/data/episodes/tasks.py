"""Chooses the images of episodes: N classes, with K support and Q query images each, for many tasks at once.

Every draw is a uniform number from a table that the caller made (`randomness.uniforms`), one row per task, so that a
task depends only on its row.
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
    """T episodes as indices in a dataset, sorted by class: the class with label j is at ``[j * K, (j + 1) * K)``.

    Attributes:
        support: int64 (T, n_way * k_shot).
        query: int64 (T, n_way * n_query), none of them in the support of the same task.
        n_way: Classes in a task.
    """

    support: Tensor
    query: Tensor
    n_way: int

    def __len__(self) -> int:
        return len(self.support)

    def __getitem__(self, rows: slice) -> "Tasks":
        return Tasks(self.support[rows], self.query[rows], self.n_way)

    def with_queries(self, n: int) -> "Tasks":
        """The same tasks with the first n queries of each class."""
        return Tasks(self.support, self.query.unflatten(1, (self.n_way, -1))[:, :, :n].flatten(1), self.n_way)

    @property
    def support_labels(self) -> Tensor:
        """int64 (T, n_way * k_shot) in [0, n_way)."""
        return self._labels(self.support)

    @property
    def query_labels(self) -> Tensor:
        """int64 (T, n_way * n_query) in [0, n_way)."""
        return self._labels(self.query)

    def _labels(self, indices: Tensor) -> Tensor:
        return sorted_labels(len(indices), self.n_way, indices.shape[1] // self.n_way, "cpu")


def sorted_labels(tasks: int, n_way: int, per_class: int, device: torch.device | str) -> Tensor:
    """Labels int64 (tasks, n_way * per_class), in every task 0, 0, ..., 1, 1, ...; made without waiting for a GPU."""
    return torch.arange(n_way, device=device)[:, None].expand(tasks, n_way, per_class).flatten(1)


class TaskSampler:
    """Draws tasks from one split: first classes, then images, both uniformly without replacement.

    The order is random too, so the label of a class changes between tasks, and chance decides whether an image is
    support or query. The cost does not depend on the number of classes or images. If classes have domains
    (`Dataset.class_domains`), the domain of a task is drawn first, uniformly or by `Dataset.domain_shares`, and all its
    classes belong to that domain.

    Args:
        dataset: Labelled images to draw from.
        n_way: Classes in a task.
        k_shot: Support images per class.
        n_query: Query images per class.
        setting: The setting to change, for error messages; ``{}`` is replaced by ``n_way``, ``k_shot`` or ``n_query``.

    Raises:
        ValueError: If there are no labels.
        ConfigError: If there are fewer than n_way classes (in a domain, if there are any), if a class has fewer than
            k_shot + n_query images, or both.

    Attributes:
        domains: Names of the domains, one of which each task has; empty if there are none.
    """

    def __init__(self, dataset: Dataset, n_way: int, k_shot: int, n_query: int, setting: str = "batching.{}") -> None:
        for name, value in {"n_way": n_way, "k_shot": k_shot, "n_query": n_query}.items():
            if value < 1:
                raise InvalidValue(f"{name}={value}, but a task needs at least 1; raise {setting.format(name)}")
        self.n_way, self.k_shot, self.n_query = n_way, k_shot, n_query
        labels = _labels(dataset)
        # The images of class c are order[starts[c] : starts[c] + counts[c]].
        self._order = np.argsort(labels, kind="stable")
        self._counts = np.bincount(labels, minlength=dataset.n_classes)
        self._starts = np.cumsum(self._counts) - self._counts
        self.domains = dataset.domains
        self._shares = None if dataset.domain_shares is None else np.array(dataset.domain_shares)
        number = {name: place for place, name in enumerate(self.domains)}
        of_class = [number[name] for name in dataset.class_domains or ()] or [0] * len(self._counts)
        # The classes of domain d are members[firsts[d] : firsts[d] + sizes[d]]; without domains there is a single one.
        self._members = np.argsort(of_class, kind="stable")
        self._sizes = np.bincount(of_class, minlength=1)
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self._check(dataset, setting)

    def sized(self, n_way: int, k_shot: int) -> "TaskSampler":
        """A sampler of tasks with no more ways and shots than this one. Nothing is sorted or checked again."""
        assert 1 <= n_way <= self.n_way and 1 <= k_shot <= self.k_shot, "larger tasks were not checked"
        sampler = copy.copy(self)
        sampler.n_way, sampler.k_shot = n_way, k_shot
        return sampler

    def within(self, domain: str) -> "TaskSampler":
        """A sampler of tasks of one domain only, which uses no number to draw it."""
        number, sampler = self.domains.index(domain), copy.copy(self)
        first, size = self._firsts[number], self._sizes[number : number + 1]
        sampler.domains, sampler._members = (), self._members[first : first + size[0]]
        sampler._sizes, sampler._firsts = size, np.zeros(1, dtype=np.int64)
        return sampler

    @property
    def columns(self) -> int:
        """Number of uniform draws that one task uses: for its classes, its images and, if there are domains, its
        domain.
        """
        return self.n_way * (1 + self.k_shot + self.n_query) + bool(self.domains)

    def __call__(self, table: np.ndarray) -> Tasks:
        """Tasks from a table (T, columns) of uniform numbers in [0, 1), one row per task."""
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
        """Index in ``domains`` of each task of a table (T, columns), int64 (T,); all 0 if there are no domains."""
        if not self.domains:
            return np.zeros(len(table), dtype=np.int64)
        numbers = table[:, -1].astype(np.float64)
        if self._shares is not None:  # a domain has the numbers from the sum of the shares before it on
            return np.searchsorted(self._shares.cumsum()[:-1], numbers, side="right").astype(np.int64)
        return np.minimum((numbers * len(self.domains)).astype(np.int64), len(self.domains) - 1)

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
                f"k_shot={self.k_shot} and n_query={self.n_query} need {needed} images per class, but {where} has "
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
    """Ordered samples without replacement, int64 (..., k), from range(population), by numbers (..., k) in [0, 1).

    They are the first k swaps of a Fisher-Yates shuffle, ``i <-> swaps[i]``, without the array to shuffle: the element
    that ends up at position i is found by undoing the swaps before it. Products are float64, because a float32 product
    may round up to the population.
    """
    steps = np.arange(numbers.shape[-1])
    swaps = steps + (numbers.astype(np.float64) * (population - steps)).astype(np.int64)
    swaps = np.minimum(swaps, population - 1)
    drawn = swaps.copy()
    for step in reversed(range(len(steps) - 1)):
        later = drawn[..., step + 1 :]
        later[later == swaps[..., step, None]] = step
    return drawn
