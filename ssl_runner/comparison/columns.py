"""Which figures may be compared: columns of one metric, measured in one way on the same data."""

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_runner.comparison.report import Column, Run
from ssl_runner.config.schema import BASELINES
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import ConfigError
from ssl_runner.runs.figures import CHOICES, EPISODES, VALIDATION, main_figures

_SHARES = ("top1", "top5", "accuracy", "difference")
_LOWER = ("loss", "error", "alignment", "uniformity")

# what says most about a difference comes first; hashes come last
_FIRST, _LAST = ("dataset", "split", "classes", "normalisation"), ("query_size", "gallery_size", "tasks", "fingerprint")
_NO_MEASURE = (
    "interval",
    "trained_on",
    "name",
    "baselines",
    "paired",
)  # parts of a protocol that do not change the figures
_RENAMED = {"bank": "gallery", "bank_size": "gallery_size"}  # in results of version 0.1


@dataclass(frozen=True)
class Measure:
    """How a metric was measured.

    Attributes:
        metric: ``knn/top1``.
        how: Everything that must agree, by name.
        own_data: Whether the judged data is the run's own dataset, not one that the evaluator brings.
    """

    metric: str
    how: Mapping[str, Any]
    own_data: bool

    @property
    def task(self) -> str:
        """What was to be done: the data, and the episodes if there are any."""
        return json.dumps([self.how.get(key) for key in ("dataset", "fingerprint", "split", "tasks")])

    @property
    def evaluator(self) -> str:
        """The metric without its dataset and setting: ``few_shot``, ``knn/top1``."""
        parts = self.metric.split("/")
        return "few_shot" if "few_shot" in parts else "/".join(parts if self.own_data else parts[1:])


class Measures:
    """The measures of runs' metrics. Runs with equal protocols and data share them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[str, Measure]] = {}

    def of(self, run: Run, metrics: Sequence[str]) -> dict[str, tuple[str, Measure]]:
        """For each metric that the run has: a key, equal for what may be compared, and the measure."""
        made = json.dumps([run.protocols, run.dataset])
        found = {}
        for metric in metrics:
            if metric in run.metrics:
                if (made, metric) not in self._known:
                    measure = _measure(run, metric)
                    text = json.dumps([metric, measure.how], sort_keys=True, default=str)
                    self._known[made, metric] = text, measure
                found[metric] = self._known[made, metric]
        return found


def _measure(run: Run, metric: str) -> Measure:
    """Reads the protocol of the metric's evaluator."""
    parts = metric.split("/")
    if parts[0] in BASELINES or f"{parts[0]}/" == VALIDATION:
        parts = parts[1:]
    protocol = dict(_protocol(run.protocols, parts))
    settings, classifiers = protocol.pop("settings", None), protocol.pop("classifiers", {})
    if isinstance(settings, dict):
        protocol |= _setting(settings, parts)
    own = "fingerprint" not in protocol
    data = {key: run.dataset.get(key) for key in ("name", "fingerprint", "split_by")} if own else {}
    images = run.dataset.get("images")
    how = {
        "dataset": data.get("name") if own else protocol.get("source"),
        "split": f"by {data.get('split_by')}" if own else None,
        "fingerprint": data.get("fingerprint") if own else protocol.get("fingerprint"),
        "test_images": images.get("test") if own and isinstance(images, dict) else None,
        **{_RENAMED.get(key, key): _current(value) for key, value in protocol.items() if key not in _NO_MEASURE},
    }
    if metric.startswith(VALIDATION):
        how["split"] = "validation"
    if "few_shot" in metric:
        classified = _classified(classifiers, parts)
        how |= classified
        how["normalisation"] = _normalisation({} if classified else run.protocols.get("algorithm"), parts)
    if {"verdict", "paired"} & set(parts):
        how["baselines"] = protocol.get("baselines")
    return Measure(metric, how, own)


def _protocol(protocols: Mapping[str, Any], parts: Sequence[str]) -> Mapping[str, Any]:
    """Of the evaluator that a key names; of all where it names none."""
    named = {name: one for name, one in protocols.items() if isinstance(one, dict) and name != "algorithm"}
    for part in parts:
        if part in named:
            own = named[part]
            # an evaluator with another dataset has that one's name before its own
            if part == parts[0] or parts[0] in str(own) or "fingerprint" not in own:
                return own
    for one in named.values():
        if parts[0] in (one.get("name"), str(one.get("source")).partition("/")[0]):
            return one
    return named


def _setting(settings: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    names = [name for part in parts for name in (f"{parts[0]}/{part}", part)]  # with domains, MNIST/5w1s
    return next((settings[name] for name in names if isinstance(settings.get(name), dict)), {"settings": settings})


def _current(value: Any) -> Any:
    return value.replace("the bank", "the gallery") if isinstance(value, str) else value


def _classified(classifiers: Any, parts: Sequence[str]) -> dict[str, str]:
    """The recipe of the few-shot classifier that a key names, or of the two that its difference is of."""
    names = [part.removeprefix("minus_") for part in parts]
    recipes = [str(classifiers[name]) for name in names if isinstance(classifiers, dict) and name in classifiers]
    return {"classifier": " minus ".join(recipes)} if recipes else {}


def _normalisation(algorithm: Any, parts: Sequence[str]) -> str:
    """Whether queries were normalised together, which lets them help each other."""
    if "inductive" in parts:
        return "inductive"
    together = isinstance(algorithm, dict) and algorithm.get("transductive")
    together = together or any(part == "transductive" or part.endswith("_transductive") for part in parts)
    return "transductive" if together else "inductive"


def chosen(runs: Sequence[Run], patterns: Sequence[str]) -> list[str]:
    """The metrics to show, in the order of the results; by default the main ones of the trained encoder.

    Args:
        patterns: Names or globs; ``untrained/*`` chooses all of the untrained encoder.

    Raises:
        ConfigError: A pattern fits no metric.
    """
    every = list(dict.fromkeys(key for run in runs for key in run.metrics))
    merits = [key for key in every if key.rpartition("/")[2] not in CHOICES]
    if not patterns:
        return main_figures(merits)
    fitting = {one: [key for key in merits if fnmatch.fnmatchcase(key, one)] for one in patterns}
    wrong = [_no_metric(one, every, merits) for one, found in fitting.items() if not found]
    if wrong:
        raise ConfigError(wrong)
    return list(dict.fromkeys(key for found in fitting.values() for key in found))


def _no_metric(pattern: str, every: Sequence[str], merits: Sequence[str]) -> str:
    if pattern in every and pattern.endswith(f"/{EPISODES}"):
        return f"--metric: {pattern} is the interval over episodes of {pattern[: -len(EPISODES)]}top1; ask for that one"
    some = ", ".join(merits[:12]) + (", ..." if len(merits) > 12 else "")
    return f"--metric: no run has {pattern}{did_you_mean(pattern, list(merits))}; there are: {some}"


def titled(measures: Sequence[Measure]) -> tuple[list[Column], list[str]]:
    """The columns, each with a title that tells it from the others, and sentences that say why some stand apart."""
    columns: list[Column] = []
    apart_by: dict[str, list[str]] = {}
    for metric in dict.fromkeys(measure.metric for measure in measures):
        group = [measure for measure in measures if measure.metric == metric]
        keys = _telling(group)
        for measure in group:
            apart = ", ".join(_part(key, measure.how.get(key)) for key in keys)
            last = metric.rpartition("/")[2]
            name = f"{_readable(metric)} ({apart})" if apart else _readable(metric)
            columns.append(Column(metric, name, not any(word in last for word in _LOWER), last in _SHARES))
        if len(group) > 1:
            apart_by.setdefault(_why(group), []).append(metric)
    notes = [
        f"{_several(metrics)} in {why}: such figures stand in columns of their own, since they cannot be compared."
        for why, metrics in apart_by.items()
    ]
    kinds = {measure.metric.startswith(VALIDATION) for measure in measures}
    if len(kinds) > 1:
        notes.append(
            "Figures on validation images stand in columns of their own: they chose the model, so compare none of them "
            "with a figure on test images."
        )
    return columns, notes


def _readable(metric: str) -> str:
    return metric.removesuffix("/top1").replace("_", " ").replace("/", " ")


def _part(key: str, value: Any) -> str:
    if key in _FIRST:
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{key.replace('_', ' ')} {text[:8] if key in _LAST else text[:40]}"


def _differing(group: Sequence[Measure]) -> list[str]:
    keys = dict.fromkeys(key for measure in group for key in measure.how)
    found = [key for key in keys if len({json.dumps(measure.how.get(key), default=str) for measure in group}) > 1]
    return sorted(found, key=lambda key: (key not in _FIRST, key in _LAST))


def _telling(group: Sequence[Measure]) -> list[str]:
    """As few keys as tell all measures of a group apart."""
    keys: list[str] = []
    parts = 1
    for key in _differing(group):
        now = len({json.dumps([one.how.get(name) for name in (*keys, key)], default=str) for one in group})
        if now > parts:
            keys.append(key)
            parts = now
        if parts == len(group):
            break
    return keys


def _why(group: Sequence[Measure]) -> str:
    keys = [key.replace("_", " ") for key in _differing(group)]
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _several(metrics: Sequence[str]) -> str:
    if len(metrics) == 1:
        return f"Runs differ for {metrics[0]}"
    return f"Runs differ for {', '.join(metrics[:3])}{f' and {len(metrics) - 3} more' if len(metrics) > 3 else ''}"
