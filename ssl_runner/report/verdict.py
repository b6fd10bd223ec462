"""The verdict on a run in words: whether its adaptation helps on unseen images."""

from collections.abc import Mapping
from typing import Any

from ssl_runner.config.schema import BASELINES

WORDS = {
    "chance": "chance",
    "pixel_centroid": "pixel centroid",
    "pixel_neighbour": "pixel nearest neighbour",
    "pixel_ridge": "ridge on pixels",
    "untrained": BASELINES["untrained"],
    "supervised": "source-supervised encoder",
    "from_scratch": "training from scratch",
}

Metrics = Mapping[str, float]
Protocols = Mapping[str, Mapping[str, Any]]


def sentences(metrics: Metrics, protocols: Protocols) -> list[str]:
    """One sentence for each unseen dataset and setting; none if the run has no verdict.

    Args:
        metrics: Metrics that include those of `ssl_runner.evaluation.verdict.Verdict`.
        protocols: Protocols of the evaluators by name, and of the algorithm under ``algorithm``.
    """
    transductive = protocols.get("algorithm", {}).get("transductive", False)
    how = "; its queries were normalised together (transductive), the baselines' were not" if transductive else ""
    verdicts = [protocol for protocol in protocols.values() if "baselines" in protocol]
    return [
        sentence(metrics, protocol, setting) + how
        for protocol in verdicts
        for setting in protocol["settings"]
        if f"{protocol['name']}/paired/{setting}/difference" in metrics
    ]


def sentence(metrics: Metrics, protocol: Mapping[str, Any], setting: str) -> str:
    """``cifar10 5w1s: 31.20 ± 0.52; the strongest baseline, pixel centroid, has 24.40; adaptation helped: ...``."""
    name, best = protocol["name"], strongest_baseline(metrics, protocol, setting)
    own, interval = (metrics[f"{name}/few_shot/{setting}/{score}"] for score in ("top1", "ci95"))
    baseline = metrics[f"{name}/verdict/{setting}/{best}/top1"]
    difference, half = (metrics[f"{name}/paired/{setting}/{score}"] for score in ("difference", "ci95"))
    n = protocol["baselines"][best]["episodes"]
    there = f" in the first {n:,} episodes" if n < protocol["episodes"] else ""
    return (
        f"{name} {setting}: {percent(own)} ± {percent(interval)}; the strongest baseline, {WORDS.get(best, best)}, has "
        f"{percent(baseline)}{there}; {outcome(difference, half)} (paired, {n:,} episodes)"
    )


def strongest_baseline(metrics: Metrics, protocol: Mapping[str, Any], setting: str) -> str:
    """The baseline to which the main difference refers: the first one with exactly this difference."""
    prefix = f"{protocol['name']}/paired/{setting}"
    scores = ("difference", "ci95")
    return next(
        baseline
        for baseline in protocol["baselines"]
        if all(metrics[f"{prefix}/{baseline}/{score}"] == metrics[f"{prefix}/{score}"] for score in scores)
    )


def outcome(difference: float, half: float) -> str:
    """Whether adaptation helped, by how much, given a paired difference and half its 95% interval."""
    interval = f"{percent(difference, '+')} ± {percent(half)}"
    if difference - half > 0:
        return f"adaptation helped: {interval}"
    if difference + half < 0:
        return f"adaptation hurt: {interval}"
    return f"adaptation did not help: {interval} is not distinguishable from 0"


def percent(share: float, sign: str = "", digits: int = 2) -> str:
    """A share in per cent, without the % sign; a value that rounds to 0 has no minus sign."""
    return f"{round(100 * share, digits) + 0.0:{sign}.{digits}f}"


def is_part(name: str, metrics: Metrics) -> bool:
    """Whether a metric such as ``cifar10/few_shot/5w1s`` is in a verdict's table, for the algorithm or a baseline."""
    dataset, kind, setting = (*name.split("/"), "", "")[:3]
    return kind in ("few_shot", "verdict") and f"{dataset}/paired/{setting}/difference" in metrics
