"""Which config keys vary between runs, and the runs of each setting."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ssl_runner.comparison.report import ENCODER, Run
from ssl_runner.config.labels import key_labels
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.config.varying import ABSENT, NO_SETTING, Flat, differing, follows, follows_seed, named, texts, value_of
from ssl_runner.errors import ConfigError

NAME = "name"
# evaluators and baselines stand in the columns, seeds are repetitions
_NO_ROW = (*NO_SETTING, "seed", "eval", "eval.*", "baselines", "baselines*")


def varying(runs: Sequence[Run], by_data: bool) -> list[str]:
    """The config keys that make rows, in the order of the config; the option of a group is called as the group.

    Left out are keys that cannot change the result, that follow from the seed, and that follow from a chosen option:
    with ``loss`` itself, ``loss.temperature`` only if it takes several values for one loss. Runs of different recipes,
    which differ in much, have their ``name`` instead of what follows from it.

    Args:
        runs: Of all rows.
        by_data: Whether columns stand for datasets; then keys of the dataset that follow from its content make no rows.
    """
    trained = [run for run in runs if ENCODER not in run.config]
    if len(trained) < len(runs):  # encoders that no run has trained
        return [ENCODER, *(varying(trained, by_data) if trained else [])]
    configs, seeds = [run.config for run in runs], [run.seed for run in runs]
    keys = [key for key in differing(configs, _NO_ROW) if not follows_seed(key, configs, seeds)]
    if by_data:
        data = [_identity(run) for run in runs]
        keys = [key for key in keys if not (key.startswith("dataset.") and follows(texts(key, configs), data))]
    return _recipes(named(keys, configs), configs)


def _recipes(keys: list[str], configs: Sequence[Flat]) -> list[str]:
    """The keys, with the runs' ``name`` in the place of several that say no more than it: recipes by their names."""
    names = texts(NAME, configs)
    told = [key for key in keys if follows(texts(key, configs), names)]
    if len(told) < 2 or not follows(names, list(zip(*(texts(key, configs) for key in told), strict=True))):
        return keys
    return [NAME, *(key for key in keys if key not in told)]


def _identity(run: Run) -> str:
    return json.dumps([run.dataset.get("name"), run.dataset.get("fingerprint"), run.dataset.get("split_by")])


def grouped(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[dict[str, Any], list[Run]]]:
    """The settings, ordered by their values, with their runs, ordered by seed and folder."""
    found: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for run in runs:
        setting = {name: value_of(run.config, name) for name in names}
        found.setdefault(json.dumps(list(setting.values())), (setting, []))[1].append(run)
    for setting, members in found.values():
        members.sort(key=lambda run: (run.seed, str(run.folder)))
        setting.update({name: _as_written(members[0], name, value) for name, value in setting.items()})
    return sorted(found.values(), key=lambda one: [_order(value) for value in one[0].values()])


def _as_written(run: Run, name: str, value: Any) -> Any:
    return run.config[name] if isinstance(value, float) and name in run.config else value


def _order(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, value, "") if number else (1, 0.0, str(value))


def shown(value: Any) -> str:
    """A value as text: ``0.2``, ``null``, ``[5, 0, 5]``; ``-`` where the key is absent."""
    if isinstance(value, str):
        return value or "-"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def labelled(setting: Mapping[str, Any]) -> str:
    """``loss=nt_xent, temperature=0.2``, without absent keys; ``all runs`` if nothing varies."""
    labels = key_labels(list(setting))
    return ", ".join(f"{labels[key]}={shown(value)}" for key, value in setting.items() if value != ABSENT) or "all runs"


def find_baseline(text: str, settings: Sequence[Mapping[str, Any]]) -> int:
    """The number of the setting that ``KEY=VALUE[,KEY=VALUE]`` names. Keys may be given by their label.

    Raises:
        ConfigError: A key is unknown, or the text names no setting or several.
    """
    names = list(settings[0])
    labels = key_labels(names)
    asked: dict[str, str] = {}
    for pair in _pairs(text):
        key, equals, value = (part.strip() for part in pair.partition("="))
        name = next((one for one in names if key in (one, labels[one])), None)
        if not equals or name is None:
            known = ", ".join(labels[one] for one in names) or "nothing: all runs have one setting"
            near = did_you_mean(key, list(labels.values()))
            raise ConfigError([f"--baseline: got {pair!r}; expected KEY=VALUE with a key that varies ({known}){near}"])
        asked[name] = value
    fitting = [
        number
        for number, setting in enumerate(settings)
        if all(_same(setting[name], value) for name, value in asked.items())
    ]
    if len(fitting) == 1:
        return fitting[0]
    some = [labelled(settings[number]).replace(", ", ",") for number in (fitting or range(len(settings)))]
    choices = "; ".join(some[:8]) + ("; ..." if len(some) > 8 else "")
    raise ConfigError([f"--baseline: {text!r} fits {len(fitting) or 'no'} settings; give one of: {choices}"])


def _pairs(text: str) -> list[str]:
    """Split at the commas that begin a new pair; a list has commas too."""
    found: list[str] = []
    for part in text.split(","):
        if "=" in part or not found:
            found.append(part)
        else:
            found[-1] += f",{part}"
    return found


def _same(value: Any, text: str) -> bool:
    try:
        if yaml.safe_load(text) == value:
            return True
    except yaml.YAMLError:
        pass
    return _plain(shown(value)) == _plain(text)


def _plain(text: str) -> str:
    return text.lower().replace("_", "").replace(" ", "")
