"""Statistics over few seeds, by scipy: paired tests, corrections, robust means over tasks.

Intervals over seeds are in `ssl_runner.runs.intervals`.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssl_runner.runs.intervals import LEVEL, mean_interval

RESAMPLES = 9_999  # of the bootstrap
EXACT = 16  # pairs; 65,536 flips of signs take a tenth of a second
_AT_ONCE = 2**17  # flips of all rows that are tested together

Seeds = Mapping[int, float]  # figure by seed


def holm(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """P-values corrected for their number (Holm 1979): all statements hold together with 95%.

    Args:
        family: How many comparisons there are, if more than are given; it corrects for all of them.
    """
    size = family or len(p_values)
    found, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        least = max(least, min(1.0, (size - rank) * p_values[place]))
        found[place] = least
    return found


@dataclass(frozen=True)
class Paired:
    """Differences over common seeds; fields as in `ssl_runner.comparison.report.Difference`."""

    mean: float
    low: float | None
    high: float | None
    pairs: int
    p: float | None


def paired(rows: Sequence[Seeds], baseline: Seeds) -> list[Paired | None]:
    """The differences of each row to the baseline over the seeds that both have, and an exact test of each.

    The test flips the sign of each difference: if they were chance, either order of a pair would be as likely. All 2^n
    flips are counted up to 16 pairs, and 99,999 random ones above.

    Returns:
        None for a row without common seeds.
    """
    differences = [[row[seed] - baseline[seed] for seed in sorted(row.keys() & baseline.keys())] for row in rows]
    p: dict[int, float] = {}
    for pairs in {len(one) for one in differences if len(one) > 1}:
        members = [number for number, one in enumerate(differences) if len(one) == pairs]
        p |= dict(zip(members, _flipped(np.array([differences[number] for number in members])), strict=True))
    return [Paired(*mean_interval(one), len(one), p.get(n)) if one else None for n, one in enumerate(differences)]


def _flipped(differences: np.ndarray) -> list[float]:
    """P-values of the test, for differences (rows, pairs)."""
    from scipy import stats

    flips = 2 ** differences.shape[1] if differences.shape[1] <= EXACT else 99_999
    found: list[float] = []
    many = max(1, _AT_ONCE // flips)
    for start in range(0, len(differences), many):
        test = stats.permutation_test(
            (differences[start : start + many],),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=flips,
            batch=1024,
            axis=1,
            rng=np.random.default_rng(0),
        )
        found += np.atleast_1d(test.pvalue).tolist()
    return found


def least_p(pairs: int) -> float:
    """The least p that the paired test can give: the two flips that are as extreme as all signs equal."""
    return min(1.0, 2 / 2**pairs) if pairs <= EXACT else 2 / 100_000


def pairs_needed(comparisons: int) -> int:
    """How many pairs the paired test needs to give p < .05 after correction for this number of comparisons."""
    return math.floor(math.log2(2 * comparisons / (1 - LEVEL))) + 1


def unlike_best(rows: Sequence[Seeds], higher_is_better: bool) -> tuple[int, list[bool], list[str]]:
    """The row with the best mean, and which others are told apart from it.

    Tests by Student's t: paired where both rows have the same seeds, Welch's where they differ. The best row is chosen
    by the same figures, so the correction (Holm) is for all pairs of rows, not only for those with it. A row with a
    single seed cannot be told apart.

    Args:
        rows: Figures by seed, at least one each.

    Returns:
        Number of the best row; for each row, whether it is told apart; the names of the tests that were used.
    """
    means = [math.fsum(row.values()) / len(row) for row in rows]
    best = max(range(len(rows)), key=lambda one: means[one] if higher_is_better else -means[one])
    same = [n for n, row in enumerate(rows) if n != best and len(row) > 1 and row.keys() == rows[best].keys()]
    other = [
        n for n, row in enumerate(rows) if n != best and len(row) > 1 and len(rows[best]) > 1 and n not in set(same)
    ]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # equal figures have no variance
        p = dict(zip(same, _paired_t(rows, same, best), strict=True)) | dict(
            zip(other, _welch(rows, other, best), strict=True)
        )
    corrected = dict(zip(p, holm(list(p.values()), len(rows) * (len(rows) - 1) // 2), strict=True))
    used = [name for name, members in (("paired t-tests", same), ("Welch's t-tests", other)) if members]
    return best, [corrected.get(number, 1.0) <= 1 - LEVEL for number in range(len(rows))], used


def _paired_t(rows: Sequence[Seeds], which: Sequence[int], best: int) -> list[float]:
    if not which:
        return []
    from scipy import stats

    seeds = sorted(rows[best])
    values = np.array([[rows[number][seed] for seed in seeds] for number in which])
    first = np.array([[rows[best][seed] for seed in seeds]])
    return _no_nan(stats.ttest_rel(values, np.broadcast_to(first, values.shape), axis=1).pvalue)


def _welch(rows: Sequence[Seeds], which: Sequence[int], best: int) -> list[float]:
    if not which:
        return []
    from scipy import stats

    first = list(rows[best].values())
    mean, deviation, number = zip(*(_moments(list(rows[one].values())) for one in which), strict=True)
    test = stats.ttest_ind_from_stats(
        np.array(mean), np.array(deviation), np.array(number), *_moments(first), equal_var=False
    )
    return _no_nan(test.pvalue)


def _moments(values: list[float]) -> tuple[float, float, int]:
    return float(np.mean(values)), float(np.std(values, ddof=1)), len(values)


def _no_nan(p_values: np.ndarray) -> list[float]:
    return [1.0 if math.isnan(p) else float(p) for p in np.atleast_1d(p_values)]


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half of all figures (Agarwal et al. 2021, arXiv:2108.13264, section 4.3)."""
    from scipy import stats

    return float(stats.trim_mean(values, 0.25))


def stratified_bootstrap(tasks: Sequence[Sequence[float]]) -> tuple[float, float | None, float | None]:
    """Interquartile mean over the runs of all tasks and its 95% interval.

    The interval is the percentile bootstrap that resamples runs within each task (arXiv:2108.13264, section 4.1). It
    needs at least two runs of each task, else the ends are None.

    Args:
        tasks: The figures of each task's runs.
    """
    from scipy import stats

    every = [value for task in tasks for value in task]
    middle = interquartile_mean(every)
    if min(len(task) for task in tasks) < 2:
        return middle, None, None

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    found = stats.bootstrap(
        tuple(np.array(task) for task in tasks),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return middle, float(found.confidence_interval.low), float(found.confidence_interval.high)
