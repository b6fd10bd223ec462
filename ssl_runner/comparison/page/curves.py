"""Learning curves over seeds, from the metrics.jsonl of runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ssl_runner.comparison.report import Row
from ssl_runner.runs import logged, run_folder

LOSS = "train/loss"
ONLINE = "train/diagnostics/online_knn"
_FINEST, _COARSEST, _TOTAL = 200, 40, 12_000  # points of a curve, and of all curves of one tag together
_SHARES = ("top1", "top5", "accuracy", "online_knn")

Points = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Series:
    """A curve of a setting.

    Attributes:
        row: Number of the row.
        seeds: How many runs it is the mean of.
        steps: Training steps.
        mean: Over the seeds, at each step.
        low: Of the lowest seed.
        high: Of the highest seed.
    """

    row: int
    seeds: int
    steps: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Chart:
    """Curves of one tag.

    Attributes:
        tag: As in metrics.jsonl.
        title: For people.
        percent: Whether values are percentages.
        series: One for each setting that logged the tag.
    """

    tag: str
    title: str
    percent: bool
    series: list[Series]


def charts(rows: Sequence[Row]) -> list[Chart]:
    """The charts that can be drawn: training loss, then figures on validation images, then the online kNN."""
    logs = [[log for run in row.runs if (log := _log(run.folder / run_folder.METRICS))] for row in rows]
    tags = {tag for row in logs for log in row for tag in log}
    points = int(np.clip(_TOTAL // max(len(rows), 1), _COARSEST, _FINEST))
    found = []
    for tag in sorted(tags, key=lambda tag: (tag != LOSS, tag == ONLINE, tag)):
        percent = tag.rsplit("/", 1)[-1] in _SHARES
        series = [one for number, row in enumerate(logs) if (one := _series(number, row, tag, points, percent))]
        if any(len(one.steps) > 1 for one in series):
            found.append(Chart(tag, _title(tag), percent, series))
    return found


def _title(tag: str) -> str:
    fixed = {LOSS: "Training loss", ONLINE: "Online kNN accuracy on validation images"}
    if tag in fixed:
        return fixed[tag]
    words = tag.removeprefix("eval/validation/").removeprefix("eval/").replace("/", " ")
    return f"{words} on validation images" if tag.startswith("eval/validation/") else words


def _series(number: int, logs: Sequence[dict[str, Points]], tag: str, points: int, percent: bool) -> Series | None:
    curves = [thinned(log[tag], points) for log in logs if tag in log]
    if not curves:
        return None
    steps, values = _on_common_steps(curves)
    if not len(steps):
        return None
    values = values * 100 if percent else values
    return Series(
        number, len(curves), *map(_rounded, (steps, values.mean(axis=0), values.min(axis=0), values.max(axis=0)))
    )


def thinned(curve: Points, points: int) -> Points:
    """At most so many points of a curve; each is the mean of its neighbours, none is picked."""
    steps, values = curve
    if len(steps) <= points:
        return curve
    edges = np.linspace(0, len(steps), points + 1).astype(int)
    counts = np.diff(edges)
    return np.add.reduceat(steps, edges[:-1]) / counts, np.add.reduceat(values, edges[:-1]) / counts


def _on_common_steps(curves: Sequence[Points]) -> tuple[np.ndarray, np.ndarray]:
    """Values of every curve at steps that all of them reach: a mean over seeds must not jump where one of them ends."""
    steps = max((steps for steps, _ in curves), key=len)
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    steps = steps[(steps >= first) & (steps <= last)]
    return steps, np.array([np.interp(steps, *curve) for curve in curves])


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _log(path: Path) -> dict[str, Points]:
    """The curves of a run that are shown, by tag; a file that has not changed is read once."""
    try:
        stat = path.stat()
        return _read(path, stat.st_mtime_ns, stat.st_size)
    except (OSError, UnicodeDecodeError):
        return {}


@lru_cache(maxsize=2_000)
def _read(path: Path, changed: int, size: int) -> dict[str, Points]:
    found: dict[str, dict[float, float]] = {}
    for line in logged.rows(path):
        if isinstance(line, dict) and _is_number(line.get("step")):
            for tag, value in line.items():
                if _is_shown(tag) and _is_number(value):
                    found.setdefault(tag, {})[line["step"]] = value
    return {tag: _points(curve) for tag, curve in found.items()}


def _points(curve: dict[float, float]) -> Points:
    return np.array(sorted(curve), dtype=float), np.array([curve[step] for step in sorted(curve)], dtype=float)


def _is_shown(tag: str) -> bool:
    return tag in (LOSS, ONLINE) or (tag.startswith("eval/") and not tag.endswith("/ci95"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
