"""What varies in a sweep: the keys that its tables show, and the jobs that differ only in their seed."""

import json
from collections.abc import Sequence
from typing import Any

from ssl_runner.config.hashing import flatten
from ssl_runner.config.schema import Config
from ssl_runner.config.varying import Flat, differing, follows_seed, named
from ssl_runner.sweeps.manifest import Job
from ssl_runner.sweeps.names import job_names

SEED = "seed"


def columns(configs: Sequence[Config]) -> list[str]:
    """The keys that vary, ``loss`` for the choice of a loss, without those that follow from the seed or an option."""
    flat = _flat(configs)
    keys = _varying(flat, configs)
    names = named(keys, flat) if keys else []
    return [*names, SEED] if len(set(_seeds(configs))) > 1 else names


def settings(jobs: Sequence[Job]) -> dict[str, list[int]]:
    """The numbers of the jobs that differ only in their seed, by a name for what they share; all names differ.

    The name is empty where only the seed varies.
    """
    configs = [job.config for job in jobs]
    flat = _flat(configs)
    keys = _varying(flat, configs)
    found: dict[str, list[int]] = {}
    for number, config in enumerate(flat):
        content = json.dumps([[key in config, config.get(key)] for key in keys])
        found.setdefault(content, []).append(number)
    if len(found) < 2:
        return {"": list(found[next(iter(found))])} if found else {}
    words = [_without_seed(jobs[members[0]].overrides) for members in found.values()]
    return dict(zip(job_names(words), found.values(), strict=True))


def _varying(flat: Sequence[Flat], configs: Sequence[Config]) -> list[str]:
    if not flat:
        return []
    seeds = _seeds(configs)
    return [key for key in differing(flat) if key != SEED and not follows_seed(key, flat, seeds)]


def _seeds(configs: Sequence[Config]) -> list[Any]:
    return [config.get(SEED) for config in configs]


def _flat(configs: Sequence[Config]) -> list[Flat]:
    """The configs by dotted key, without the top-level nodes that are equal in all: there may be 10,000 configs."""
    values: dict[str, set[str]] = {}
    for config in configs:
        for key in config:
            values.setdefault(key, set()).add(json.dumps(config[key], sort_keys=True))
    kept = [key for key, texts in values.items() if len(texts) > 1 or any(key not in config for config in configs)]
    return [
        {key: value for name in kept if name in one for key, value in flatten(one[name], name).items()}
        for one in configs
    ]


def _without_seed(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.partition("=")[0].lstrip("+") != SEED]
