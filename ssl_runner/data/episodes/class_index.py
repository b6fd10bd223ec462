"""Where the images of each class are, and which classes belong to which domain."""

import copy

import numpy as np

from ssl_runner.data.dataset import Dataset
from ssl_runner.errors import InvalidValue


class ClassIndex:
    """The images of each class of a labelled dataset, and the classes of each of its domains.

    Args:
        dataset: Labelled images.

    Raises:
        ValueError: There are no labels.

    Attributes:
        domains: Names of the domains; empty if there are none.
        counts: Number of images of each class, int64 (classes,).
    """

    def __init__(self, dataset: Dataset) -> None:
        labels = _labels(dataset)
        # The images of class c are order[starts[c] : starts[c] + counts[c]].
        self._order = np.argsort(labels, kind="stable")
        self.counts = np.bincount(labels, minlength=dataset.n_classes)
        self._starts = np.cumsum(self.counts) - self.counts
        self.domains = dataset.domains
        self._shares = None if dataset.domain_shares is None else np.array(dataset.domain_shares)
        number = {name: place for place, name in enumerate(self.domains)}
        of_class = [number[name] for name in dataset.class_domains or ()] or [0] * len(self.counts)
        # The classes of domain d are members[firsts[d] : firsts[d] + sizes[d]]; without domains there is a single one.
        self._members = np.argsort(of_class, kind="stable")
        self.sizes = np.bincount(of_class, minlength=1)
        self._firsts = np.cumsum(self.sizes) - self.sizes

    def within(self, domain: str) -> "ClassIndex":
        """The index of one domain only, which then counts as a dataset without domains."""
        number, index = self.domains.index(domain), copy.copy(self)
        first, size = self._firsts[number], self.sizes[number : number + 1]
        index.domains, index._members = (), self._members[first : first + size[0]]
        index.sizes, index._firsts = size, np.zeros(1, dtype=np.int64)
        return index

    def drawn_domains(self, numbers: np.ndarray) -> np.ndarray:
        """Index in ``domains`` for each of the uniform numbers (T,), int64 (T,); all 0 if there are no domains."""
        if not self.domains:
            return np.zeros(len(numbers), dtype=np.int64)
        numbers = numbers.astype(np.float64)
        if self._shares is not None:  # a domain has the numbers from the sum of the shares before it on
            return np.searchsorted(self._shares.cumsum()[:-1], numbers, side="right").astype(np.int64)
        return np.minimum((numbers * len(self.domains)).astype(np.int64), len(self.domains) - 1)

    def drawn_classes(self, numbers: np.ndarray, domains: np.ndarray) -> np.ndarray:
        """Different classes int64 (T, n) of each task's domain (T,), by uniform numbers (T, n)."""
        return self._members[sample(numbers, self.sizes[domains[:, None]]) + self._firsts[domains[:, None]]]

    def drawn_images(self, numbers: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Different images int64 (..., n) of each class (...), by uniform numbers (..., n).

        If a class has fewer than n images, only as many at the beginning of its row are images of it.
        """
        counts = self.counts[classes][..., None]
        places = np.minimum(sample(numbers, counts), counts - 1)  # which changes only places past the last image
        return self._order[places + self._starts[classes][..., None]]

    def classes_of(self, number: int) -> np.ndarray:
        """The classes of a domain by its number, 0 without domains."""
        return self._members[self._firsts[number] :][: self.sizes[number]]


def where(dataset: Dataset, domain: str = "") -> str:
    """The split, or a domain of it, in words."""
    source, _, split = dataset.name.rpartition("/")
    named = f"split '{split}' of {source}" if source else split
    return f"domain '{domain}' of {named}" if domain else named


def _labels(dataset: Dataset) -> np.ndarray:
    if dataset.labels is None:
        raise InvalidValue(f"{dataset.name} has no labels, but tasks are made of classes; choose a labelled dataset")
    return dataset.labels.numpy()


def sample(numbers: np.ndarray, population: np.ndarray) -> np.ndarray:
    """Ordered samples without replacement, int64 (..., k), from range(population), by numbers (..., k) in [0, 1).

    They are the first k swaps of a Fisher-Yates shuffle, ``i <-> swaps[i]``, without the array to shuffle: the element
    that ends up at position i is found by undoing the swaps before it, so later ones do not matter: if k is above the
    population, the positions up to the population are still such a sample. Products are float64, because a float32
    product may round up to the population.
    """
    steps = np.arange(numbers.shape[-1])
    swaps = steps + (numbers.astype(np.float64) * (population - steps)).astype(np.int64)
    swaps = np.minimum(swaps, population - 1)
    drawn = swaps.copy()
    for step in reversed(range(len(steps) - 1)):
        later = drawn[..., step + 1 :]
        later[later == swaps[..., step, None]] = step
    return drawn
