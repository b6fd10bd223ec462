"""The sizes of a few-shot task, as in its name ``5w1s``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ssl_runner.data.dataset import Dataset
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import randomness


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
            raise InvalidValue(f"eval.{option}.settings has '{name}'; expected ways and shots, as in 5w1s, or 5w1s1q")
        return cls(name, int(match[1]), int(match[2]), int(match[3] or n_query))


def check_asked(
    option: str, settings: Sequence[str], n_query: int, episodes: int, seed: int, tasks_per_batch: int
) -> list[Setting]:
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
    return [Setting.parse(setting, n_query, option) for setting in settings]


def remedy(settings: Sequence[Setting], n_query: int, dataset: Dataset, option: str) -> str:
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
    needed = {one: one.k_shot + (1 if one.n_query == n_query else one.n_query) for one in settings}
    fit = [one for one, least in needed.items() if one.n_way <= classes and least <= smallest]
    fit = fit or [Setting.parse(f"{min(classes, settings[0].n_way)}w1s", n_query)]
    names, most = ",".join(one.name for one in fit), min(n_query, smallest - max(one.k_shot for one in fit))
    return f"{has}; set eval.{option}.settings=[{names}] eval.{option}.n_query={most}"
