"""Accuracies of an algorithm and of baselines on the same episodes, compared episode by episode."""

import math
from collections.abc import Mapping

from torch import Tensor


def strongest_baseline(own: Tensor, found: Mapping[str, Tensor]) -> str:
    """The name of the baseline that is the strongest evidence against the algorithm.

    If the algorithm is worse than some baseline, so that the whole 95% interval of the paired difference is below 0, it
    is the baseline whose interval ends lowest; otherwise the one whose interval begins lowest. So "better" means better
    than every baseline, and "worse" means worse than at least one, whether a baseline classified all episodes or only
    the first ones. Choosing it by the episodes on which it is compared is conservative: the baseline's luck counts for
    the baseline.

    Args:
        own: float64 (T,), the algorithm's accuracies.
        found: Accuracies (n,) of each baseline, for the first n <= T of the same episodes.
    """
    paired = {name: difference(own, values) for name, values in found.items()}
    ends = {name: one["difference"] + one["ci95"] for name, one in paired.items()}
    begins = {name: one["difference"] - one["ci95"] for name, one in paired.items()}
    worst = min(ends, key=ends.__getitem__)
    return worst if ends[worst] < 0 else min(begins, key=begins.__getitem__)


def difference(own: Tensor, baseline: Tensor) -> dict[str, float]:
    """``difference``, the mean of the algorithm's accuracy minus the baseline's, and ``ci95``, half its 95% interval.

    The interval is that of the differences within each episode, not of two means, so episodes that are easy or hard for
    both do not widen it.

    Args:
        own: float64 (T,).
        baseline: float64 (n,), for the first n <= T of the same episodes.
    """
    differences = own[: len(baseline)] - baseline
    return {"difference": differences.mean().item(), "ci95": interval(differences)}


def interval(accuracies: Tensor) -> float:
    """Half the 95% interval of the mean of accuracies (n,): normal from n = 30 on, Student's t below."""
    n, quantile = len(accuracies), 1.96
    if n < 30:
        from scipy.stats import t as student  # slow to import

        quantile = float(student.ppf(0.975, n - 1))
    return quantile * accuracies.std().item() / math.sqrt(n)


def mean(values: Tensor) -> dict[str, float]:
    """``top1`` and ``ci95`` of accuracies (n,)."""
    return {"top1": values.mean().item(), "ci95": interval(values)}


def keyed(prefix: str, scores: Mapping[str, float]) -> dict[str, float]:
    """The scores with a prefix before their keys."""
    return {f"{prefix}/{name}": value for name, value in scores.items()}
