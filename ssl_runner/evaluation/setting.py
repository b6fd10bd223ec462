"""The sizes of few-shot tasks, by their names: ``5w1s``, or ``varied``."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.varied_tasks import META_DATASET, Limits
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import randomness

VARIED = "varied"


@dataclass(frozen=True)
class Setting:
    """``5w1s`` as numbers; ``5w1s1q`` also gives the queries per class."""

    name: str
    n_way: int
    k_shot: int
    n_query: int

    @classmethod
    def parse(cls, name: str, n_query: int, option: str = "few_shot") -> "Setting":
        match = re.fullmatch(r"(\d+)w(\d+)s(?:(\d+)q)?", name)
        if match is None:
            raise InvalidValue(
                f"eval.{option}.settings has '{name}'; expected ways and shots, as in 5w1s, or 5w1s1q, or {VARIED}"
            )
        return cls(name, int(match[1]), int(match[2]), int(match[3] or n_query))

    def described(self) -> dict[str, Any]:
        """The sizes as plain JSON data."""
        return {"n_way": self.n_way, "k_shot": self.k_shot, "n_query": self.n_query}


@dataclass(frozen=True)
class VariedSetting:
    """``varied``: every task has its own sizes, drawn as in Meta-Dataset (`VariedTaskSampler`)."""

    name: str = VARIED
    limits: Limits = META_DATASET

    def described(self) -> dict[str, Any]:
        """The bounds of the sizes as plain JSON data."""
        return asdict(self.limits)


AnySetting = Setting | VariedSetting


def check_asked(
    option: str, settings: Sequence[str], n_query: int, episodes: int, seed: int, tasks_per_batch: int
) -> list[AnySetting]:
    """Check and parse the settings of an evaluator of few-shot tasks.

    Args:
        option: The option of the group eval, for messages.

    Raises:
        InvalidValue: A value is out of range, or a setting cannot be parsed or is repeated.
    """
    if episodes < 2:
        raise InvalidValue(f"eval.{option}.episodes={episodes}; an interval needs at least 2")
    if not settings:
        otherwise = f"leave {option} out of eval=[...]"
        raise InvalidValue(f"eval.{option}.settings=[] is empty; give [5w1s], or {otherwise}")
    if len(set(settings)) < len(settings):
        raise InvalidValue(f"eval.{option}.settings={list(settings)} repeats a setting; give each only once")
    for name, value in {"n_query": n_query, "tasks_per_batch": tasks_per_batch}.items():
        if value < 1:
            raise InvalidValue(f"eval.{option}.{name}={value}; it must be at least 1")
    randomness.check_seed(seed, f"eval.{option}.seed")
    return [VariedSetting() if name == VARIED else Setting.parse(name, n_query, option) for name in settings]


def of_one_size(settings: Sequence[AnySetting], option: str) -> list[Setting]:
    """The settings, none of which may be ``varied``.

    Raises:
        InvalidValue: One of them is.
    """
    fixed = [setting for setting in settings if isinstance(setting, Setting)]
    if len(fixed) < len(settings):
        raise InvalidValue(
            f"eval.{option}.settings has '{VARIED}', but {option} compares tasks of one size; give ways and shots, as "
            "in 5w1s"
        )
    return fixed


def remedy(settings: Sequence[AnySetting], n_query: int, dataset: Dataset, option: str) -> str:
    """A message with the settings for which the dataset has enough classes and images, or else the nearest one.

    Args:
        settings: The requested settings, not all of which fit.
        n_query: Queries per class for settings that do not say.
        dataset: A labelled dataset. If it has domains, the one with the fewest classes counts.
        option: The option of the group eval, for the message.
    """
    assert dataset.labels is not None, "already refused"
    smallest = int(dataset.labels.bincount(minlength=dataset.n_classes).min())
    domains = dataset.class_domains or ("",) * dataset.n_classes
    classes, where = min((domains.count(name), f" in {name}" if name else "") for name in set(domains))
    has = f"eval.{option}: {dataset.name} has {classes} classes{where} of at least {smallest} images"
    if min(classes, smallest) < 2:
        return f"{has}, too few for any task; leave {option} out of eval=[...]"
    fit, shots = [], [1]
    for one in settings:
        ways, least = needed(one, n_query)
        if ways <= classes and least <= smallest:
            fit.append(one.name)
            shots += [one.k_shot] if isinstance(one, Setting) else []
    fit = fit or [f"{min(classes, needed(settings[0], n_query)[0])}w1s"]
    most = min(n_query, smallest - max(shots))
    return f"{has}; set eval.{option}.settings=[{','.join(fit)}] eval.{option}.n_query={most}"


def needed(setting: AnySetting, n_query: int) -> tuple[int, int]:
    """Ways of a setting, and the fewest images a class must have if queries by default may be lowered to one."""
    if isinstance(setting, VariedSetting):
        return setting.limits.least_ways, 2
    return setting.n_way, setting.k_shot + (1 if setting.n_query == n_query else setting.n_query)
