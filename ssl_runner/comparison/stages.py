"""Runs in several stages: those that begin from the weights of other runs, whose seeds are repetitions as well."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_runner.comparison.report import Run
from ssl_runner.config.hashing import setting_hash

INIT, FINGERPRINT = "init", "init.fingerprint"  # the first is what a report calls it


def with_origins(runs: Sequence[Run]) -> list[Run]:
    """The runs, with ``init`` instead of the weights' fingerprint: the recipe of the runs that their weights are from.

    Weights of each seed differ, so runs in two stages would else be a setting each. They are repetitions of one if each
    seed began from weights of its own and the runs that these are from differ in their seeds only. Otherwise, say where
    three seeds begin from each of two runs, the fingerprint stays what tells settings apart.
    """
    if len({run.config.get(FINGERPRINT) for run in runs}) < 2:
        return list(runs)
    # runs from before 0.2 do not say it, but the runs that they began from are often among those compared
    known = {run.config_hash: setting_hash(run.config) for run in runs if not run.init}
    origins = {run.folder: _setting(run) or known.get(str(_origin(run).get("config_hash"))) for run in runs}
    repeated = _repeated(runs, origins)
    labels = _labels(
        {(str(_origin(run).get("name")), str(origins[run.folder])) for run in runs if run.folder in repeated}
    )
    found = []
    for run in runs:
        config = {key: value for key, value in run.config.items() if key != FINGERPRINT}
        if run.folder in repeated:
            config[INIT] = labels[str(origins[run.folder])]
        elif FINGERPRINT in run.config:
            config[INIT] = run.config[FINGERPRINT]
        found.append(replace(run, config=config))
    return found


def _origin(run: Run) -> dict[str, Any]:
    about = run.init.get("run")
    return about if isinstance(about, dict) else {}


def _setting(run: Run) -> str | None:
    return _origin(run).get("setting")


def _labels(named: set[tuple[str, str]]) -> dict[str, str]:
    """What settings are called: by their name, or if another has it, too, by some of their hash as well."""
    names = [name for name, _ in named]
    return {setting: name if names.count(name) == 1 else f"{name} {setting[:6]}" for name, setting in named}


def _repeated(runs: Sequence[Run], origins: Mapping[Path, str | None]) -> set[Path]:
    """The folders of those that differ in nothing but their seed and, one for each seed, in their weights."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if (origin := origins[run.folder]) is not None:
            found.setdefault(setting_hash(run.config, origin), []).append(run)
    folders: set[Path] = set()
    for members in found.values():
        pairs = {(run.seed, run.config.get(FINGERPRINT)) for run in members}
        if 1 < len(pairs) == len({seed for seed, _ in pairs}) == len({weights for _, weights in pairs}):
            folders |= {run.folder for run in members}
    return folders
