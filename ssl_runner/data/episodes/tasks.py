"""Chooses the images of episodes: N classes, with K support and Q query images each, for many tasks at once.

Every draw is a uniform number from a table that the caller made (`randomness.uniforms`), one row per task, so that a
task depends only on its row.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.class_index import ClassIndex, where
from ssl_runner.errors import ConfigError, InvalidValue


@dataclass(frozen=True)
class Tasks:
    """T episodes as indices in a dataset, sorted by class, so that they can be stacked.

    Attributes:
        support: int64 (T, S): first the images of the class with label 0, then those of 1, and so on.
        query: int64 (T, n_way * n_query), none of them in the support of the same task; n_query of each class.
        n_way: Classes in a task.
        shots: int64 (n_way,): support images of each class, in all T tasks; None if each class has S / n_way.
    """

    support: Tensor
    query: Tensor
    n_way: int
    shots: Tensor | None = None

    def __len__(self) -> int:
        return len(self.support)

    def __getitem__(self, rows: slice) -> "Tasks":
        return replace(self, support=self.support[rows], query=self.query[rows])

    def batches(self, size: int) -> Iterator["Tasks"]:
        """The tasks in order, ``size`` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def images(self) -> Tensor:
        """Indices of all images, int64 (M,), repeated as often as they occur."""
        return torch.cat([self.support.flatten(), self.query.flatten()])

    def probe(self) -> "Tasks":
        """One task with one query of each class, to find out whether such tasks can be classified."""
        return self[:1].with_queries(1)

    def with_queries(self, n: int) -> "Tasks":
        """The same tasks with the first n queries of each class."""
        return replace(self, query=self.query.unflatten(1, (self.n_way, -1))[:, :, :n].flatten(1))

    @property
    def support_labels(self) -> Tensor:
        """int64 (T, S) in [0, n_way)."""
        if self.shots is None:
            return self._labels(self.support)
        return torch.arange(self.n_way).repeat_interleave(self.shots).expand(len(self), -1)

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
    """

    def __init__(self, dataset: Dataset, n_way: int, k_shot: int, n_query: int, setting: str = "batching.{}") -> None:
        for name, value in {"n_way": n_way, "k_shot": k_shot, "n_query": n_query}.items():
            if value < 1:
                raise InvalidValue(f"{name}={value}, but a task needs at least 1; raise {setting.format(name)}")
        self.n_way, self.k_shot, self.n_query = n_way, k_shot, n_query
        self._index = ClassIndex(dataset)
        self._check(dataset, setting)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, one of which each task has; empty if there are none."""
        return self._index.domains

    def sized(self, n_way: int, k_shot: int) -> "TaskSampler":
        """A sampler of tasks with no more ways and shots than this one. Nothing is sorted or checked again."""
        assert 1 <= n_way <= self.n_way and 1 <= k_shot <= self.k_shot, "larger tasks were not checked"
        sampler = copy.copy(self)
        sampler.n_way, sampler.k_shot = n_way, k_shot
        return sampler

    def within(self, domain: str) -> "TaskSampler":
        """A sampler of tasks of one domain only, which uses no number to draw it."""
        sampler = copy.copy(self)
        sampler._index = self._index.within(domain)
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
        classes = self._index.drawn_classes(table[:, : self.n_way], self.drawn_domains(table))
        of_images = slice(self.n_way, self.columns - bool(self.domains))
        numbers = table[:, of_images].reshape(len(table), self.n_way, -1)
        images = torch.from_numpy(self._index.drawn_images(numbers, classes))
        support, query = images[..., : self.k_shot], images[..., self.k_shot :]
        return Tasks(support.flatten(1), query.flatten(1), self.n_way)

    def drawn_domains(self, table: np.ndarray) -> np.ndarray:
        """Index in ``domains`` of each task of a table (T, columns), int64 (T,); all 0 if there are no domains."""
        return self._index.drawn_domains(table[:, -1])

    def _check(self, dataset: Dataset, setting: str) -> None:
        problems = []
        for name, size in zip(self.domains or ("",), self._index.sizes.tolist(), strict=True):
            if self.n_way > size:
                which = where(dataset, name)
                problems.append(f"n_way={self.n_way}, but {which} has {size} classes; lower {setting.format('n_way')}")
        needed, counts = self.k_shot + self.n_query, self._index.counts
        short = np.flatnonzero(counts < needed)
        if len(short):
            smallest = short[np.argmin(counts[short])]
            problems.append(
                f"k_shot={self.k_shot} and n_query={self.n_query} need {needed} images per class, but {where(dataset)} "
                f"has {len(short)} smaller classes, the smallest '{dataset.class_names[smallest]}' with "
                f"{counts[smallest]}; lower {setting.format('k_shot')} or {setting.format('n_query')}"
            )
        if problems:
            raise ConfigError(problems)
