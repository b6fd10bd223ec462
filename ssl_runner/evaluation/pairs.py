"""Encoders that were asked the same test images and episodes, compared pair by pair. It needs no torch."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssl_runner.comparison.statistics import holm

LEVEL = 0.05

# of one encoder: for each key, bool (M,) of test images, or float64 (T,) accuracies of episodes
Answers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """One encoder compared with another in one score.

    Attributes:
        key: The score without ``/top1``: ``knn``, ``few_shot/5w1s``.
        first: Number of the one encoder.
        second: Number of the other.
        mean: Accuracy of the first minus that of the second.
        ci95: Half the 95% interval of that difference, paired.
        n: Number of images or episodes.
        test: ``McNemar``, or ``paired t`` for episodes.
        p: Two-sided; exact for McNemar's test.
        p_holm: Corrected for the number of pairs of encoders (Holm 1979).
        note: What a reader must know of a test that can show nothing; empty for others.
    """

    key: str
    first: int
    second: int
    mean: float
    ci95: float
    n: int
    test: str
    p: float
    p_holm: float
    note: str = ""

    @property
    def told_apart(self) -> bool:
        """Whether the corrected p is below 5%."""
        return self.p_holm < LEVEL


def compare(answers: Sequence[Answers]) -> list[Difference]:
    """Every pair of encoders in every score that both have, Holm's correction over the pairs of each score.

    Args:
        answers: Of each encoder. Those of a key are of the same images or episodes, in the same order.

    Raises:
        ValueError: Two encoders have different numbers of answers.
    """
    found: list[Difference] = []
    for key in dict.fromkeys(key for one in answers for key in one):
        pairs = [(a, b) for a, b in itertools.combinations(range(len(answers)), 2) if {key} <= answers[a].keys()]
        pairs = [(a, b) for a, b in pairs if key in answers[b]]
        tested = [_tested(answers[a][key], answers[b][key]) for a, b in pairs]
        corrected = holm([p for _, p, _ in tested])
        for (a, b), (test, p, note), p_holm in zip(pairs, tested, corrected, strict=True):
            values = answers[a][key].astype(float) - answers[b][key]
            found.append(Difference(key, a, b, values.mean().item(), _ci95(values), len(values), test, p, p_holm, note))
    return found


def _tested(first: np.ndarray, second: np.ndarray) -> tuple[str, float, str]:
    """The name of the test, p, and a note."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} answers cannot be paired")
    if first.dtype == np.bool_:
        p, discordant = mcnemar(first, second)
        smallest = min(1.0, 2.0 ** (1 - discordant))
        few = smallest >= LEVEL
        return "McNemar", p, f"only {discordant} answers differ: p cannot be below {smallest:.2g}" if few else ""
    return "paired t", paired_t(first, second), ""


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[float, int]:
    """p of McNemar's exact test (1947), two-sided, and the number of images that only one of the two answers rightly.

    Under the hypothesis of equal accuracies, each of those is a fair coin.

    Args:
        first: bool (M,), which images are answered rightly.
        second: bool (M,), the same of another encoder.
    """
    from scipy.stats import binomtest  # slow to import

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    return (float(binomtest(only_first, discordant).pvalue) if discordant else 1.0), discordant


def paired_t(first: np.ndarray, second: np.ndarray) -> float:
    """p of the paired t test, two-sided, of accuracies (T,) over the same episodes."""
    from scipy.stats import ttest_rel

    differences = first - second
    if np.ptp(differences) == 0:  # no spread to compare with
        return 1.0 if differences[0] == 0 else 0.0
    return float(ttest_rel(first, second).pvalue)


def _ci95(differences: np.ndarray) -> float:
    """Half the 95% interval of the mean: as `paired.interval`."""
    n, quantile = len(differences), 1.96
    if n < 2:
        return float("nan")
    if n < 30:
        from scipy.stats import t as student

        quantile = float(student.ppf(0.975, n - 1))
    return quantile * differences.std(ddof=1).item() / n**0.5
