"""Accuracies of an algorithm and of baselines on the same episodes, compared episode by episode."""

from collections.abc import Mapping

from torch import Tensor

from ssl_runner.evaluation.few_shot import interval


def best_baseline(found: Mapping[str, Tensor]) -> str:
    """Name of the baseline of highest mean accuracy.

    One that was asked fewer episodes, the first ones, is the best if it is better there than each of the others; the
    algorithm is then compared with it there. To take the best by the episodes on which it is compared is conservative
    for the algorithm: the baseline's luck counts for the baseline.

    Args:
        found: Accuracies (n,) of each; at least one is of all episodes.
    """
    episodes = max(map(len, found.values()))
    whole = [name for name, values in found.items() if len(values) == episodes]
    best = max(whole, key=lambda name: found[name].mean().item())
    for name in sorted(found, key=lambda name: found[name].mean().item()):
        values = found[name]
        if name not in whole and all(values.mean() > found[other][: len(values)].mean() for other in whole):
            best = name
    return best


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
