"""Accuracies of an algorithm and of baselines on the same episodes, compared episode by episode."""

from collections.abc import Mapping

from torch import Tensor

from ssl_runner.evaluation.few_shot import interval


def strongest_baseline(own: Tensor, found: Mapping[str, Tensor]) -> str:
    """Name of the baseline that speaks most against the algorithm.

    If it is worse than any, so that the whole 95% interval of the paired difference lies below 0, then the one whose
    interval ends lowest; else the one whose interval begins lowest. So "better" means better than each of them, and
    "worse" worse than one, whether a baseline was asked all episodes or the first of them only. To choose it by the
    episodes on which it is compared is conservative: the baseline's luck counts for the baseline.

    Args:
        own: float64 (T,), the algorithm's accuracies.
        found: Accuracies (n,) of each baseline, of the first n <= T of the same episodes.
    """
    told = {name: difference(own, values) for name, values in found.items()}
    ends = {name: one["difference"] + one["ci95"] for name, one in told.items()}
    begins = {name: one["difference"] - one["ci95"] for name, one in told.items()}
    worst = min(ends, key=ends.__getitem__)
    return worst if ends[worst] < 0 else min(begins, key=begins.__getitem__)


def difference(own: Tensor, baseline: Tensor) -> dict[str, float]:
    """``difference``, the mean of the algorithm's accuracy less the baseline's, and ``ci95``, half its 95% interval.

    The interval is of the differences within each episode, not of two means: what makes an episode easy for both does
    not widen it.

    Args:
        own: float64 (T,).
        baseline: float64 (n,), of the first n <= T of the same episodes.
    """
    differences = own[: len(baseline)] - baseline
    return {"difference": differences.mean().item(), "ci95": interval(differences)}


def mean(values: Tensor) -> dict[str, float]:
    """``top1`` and ``ci95`` of accuracies (n,)."""
    return {"top1": values.mean().item(), "ci95": interval(values)}


def keyed(prefix: str, scores: Mapping[str, float]) -> dict[str, float]:
    """The scores with their keys below a prefix."""
    return {f"{prefix}/{name}": value for name, value in scores.items()}
