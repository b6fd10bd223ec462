"""The mean over seeds of what runs have logged, with a 95% band, at the steps that all of them have."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_runner.runs import run_folder
from ssl_runner.runs.figures import VALIDATION, main_figures
from ssl_runner.runs.intervals import mean_interval
from ssl_runner.runs.logged import rows

# the curves that say whether a setting learns, by title; what else runs log is in their own charts
CURVES = {
    "loss": "train/loss",
    "training accuracy": "train/accuracy",
    "online kNN": "train/diagnostics/online_knn",
    "alignment: distance of an image's views": "train/diagnostics/alignment",
    "uniformity: lower is more spread": "train/diagnostics/uniformity",
    "RankMe: dimensions in use": "train/diagnostics/rankme",
}
_VALIDATION = f"eval/{VALIDATION}"
MOST = 1000  # steps of a curve, as many as TensorBoard shows


@dataclass(frozen=True)
class Band:
    """Mean over seeds and the ends of its 95% interval by Student's t, at each of some steps."""

    steps: list[int]
    mean: list[float]
    lower: list[float]
    upper: list[float]


def bands(folders: Sequence[Path]) -> dict[str, Band]:
    """The band of each curve that all runs have, by tag.

    A step at which a run has no figure, or one that is not finite, is left out: a mean over fewer seeds would jump.

    Args:
        folders: Of at least two runs that differ in their seed.
    """
    runs = [_curves(folder) for folder in folders]
    found = {}
    for tag in [tag for tag in runs[0] if all(tag in run for run in runs)]:
        common = set.intersection(*(set(run[tag]) for run in runs))
        if common:
            found[tag] = _band(_thinned(sorted(common)), [run[tag] for run in runs])
    return found


def titles(tags: Sequence[str]) -> dict[str, str]:
    """Titles of the charts, with their tags, in the order in which to show them."""
    fixed = {title: tag for title, tag in CURVES.items() if tag in tags}
    main = main_figures([tag.removeprefix(_VALIDATION) for tag in tags if tag.startswith(_VALIDATION)])
    return fixed | {f"validation: {name.removesuffix('/top1')}": f"{_VALIDATION}{name}" for name in main}


def _curves(folder: Path) -> dict[str, dict[int, float]]:
    """Finite figures by step, by tag."""
    found: dict[str, dict[int, float]] = {}
    for row in rows(folder / run_folder.METRICS):
        for tag, value in row.items():
            if (tag in CURVES.values() or tag.startswith(_VALIDATION)) and math.isfinite(value):
                found.setdefault(tag, {})[row["step"]] = value
    return found


def _band(steps: list[int], curves: Sequence[dict[int, float]]) -> Band:
    points = [mean_interval([curve[step] for curve in curves]) for step in steps]
    mean, lower, upper = (list(values) for values in zip(*points, strict=True))
    return Band(steps, mean, lower, upper)


def _thinned(steps: list[int]) -> list[int]:
    """At most MOST of the steps, evenly, with the first and the last."""
    if len(steps) <= MOST:
        return steps
    return [steps[round(place * (len(steps) - 1) / (MOST - 1))] for place in range(MOST)]
