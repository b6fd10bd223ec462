"""Which keys of several configs vary, named as a person would: the option of a group by the group's name."""

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssl_runner.config.hashing import OUTSIDE_THE_HASH

ABSENT = ""  # the value of a key that a config does not have
TARGET = "._target_"
NO_SETTING = (*OUTSIDE_THE_HASH, "*._partial_")  # patterns of keys that make no setting
MANY = 6  # varying keys; with more, keys and options that follow from another option are not shown

Flat = Mapping[str, Any]  # a config by dotted key


def differing(configs: Sequence[Flat], but: Sequence[str] = NO_SETTING) -> list[str]:
    """The keys with several values, or that some configs lack, in the order of the configs.

    Args:
        but: Patterns of keys to leave out.
    """
    first, found = configs[0], set()
    for config in configs[1:]:
        found |= first.keys() ^ config.keys()
        found.update(key for key, value in config.items() if key in first and first[key] != value)
    order = dict.fromkeys(key for config in configs for key in config)
    return [key for key in order if key in found and not any(fnmatch.fnmatchcase(key, one) for one in but)]


def follows_seed(key: str, configs: Sequence[Flat], seeds: Sequence[Any]) -> bool:
    """Whether a key is the seed in all configs, whose seeds differ."""
    return len(set(seeds)) > 1 and all(config.get(key) == seed for config, seed in zip(configs, seeds, strict=True))


def named(keys: Sequence[str], configs: Sequence[Flat]) -> list[str]:
    """The keys by name, ``loss`` for ``loss._target_``, without those that follow from a chosen option.

    With ``loss`` itself, ``loss.temperature`` is there only if it takes several values for one loss. Of many keys,
    ``algorithm`` alone is there if each algorithm has its own loss.
    """
    names = list(dict.fromkeys(key.removesuffix(TARGET) for key in keys))
    values = {name: texts(name, configs) for name in names}
    options = [key.removesuffix(TARGET) for key in keys if key.endswith(TARGET)]
    if len(names) <= MANY:
        above = {name: [option for option in options if name.startswith(f"{option}.")] for name in names}
        return [name for name in names if not _derived(name, above[name], values)]
    leading = _leading(options, values)
    return [name for name in names if name in leading or not _derived(name, leading, values)]


def _leading(options: Sequence[str], values: Mapping[str, Sequence[Any]]) -> list[str]:
    """The options that follow from no other, beginning with those of the most values."""
    found: list[str] = []
    for option in sorted(options, key=lambda one: -len(set(values[one]))):
        if not _derived(option, found, values):
            found.append(option)
    return found


def _derived(name: str, options: Sequence[str], values: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a key's values follow from one of the options."""
    return any(follows(values[name], values[option]) for option in options)


def follows(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether equal ``others`` always go with equal ``values``."""
    return len(set(zip(others, values, strict=True))) == len(set(others))


def texts(name: str, configs: Iterable[Flat]) -> list[str]:
    """The values of a key in each config, as text that is equal for equal values."""
    return [json.dumps(value_of(config, name)) for config in configs]


def value_of(config: Flat, name: str) -> Any:
    """The value of a key: of a group, the name of its option, ``nt_xent`` or ``Adam``; ABSENT if there is none."""
    target = config.get(f"{name}{TARGET}")
    if target is not None:
        return option(str(target))
    value = config.get(name, ABSENT)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def option(target: str) -> str:
    """A short name of a class or function: that of its module where both say the same, else its own."""
    *_, module, own = f".{target}".split(".")
    return module if module.replace("_", "").lower() == own.replace("_", "").lower() else own
