"""The best trial of a search as an experiment file, from which it can be run or built upon."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ssl_runner.cli.compose import EXPERIMENT, Composer
from ssl_runner.cli.compose_errors import COMPOSITION_ERRORS
from ssl_runner.cli.validate import checked_config
from ssl_runner.config.hashing import config_difference, config_hash, flatten
from ssl_runner.errors import ConfigError
from ssl_runner.runtime.atomic_write import write_atomically
from ssl_runner.sweeps.manifest import Job

NAME = "best"


def write_best(composer: Composer, folder: Path, job: Job, about: str) -> list[str]:
    """Write ``folder/conf/experiment/best.yaml``.

    The file is composed once more; what differs from the job's config, such as values that an experiment sets for
    options that the job does not select, is written into it as values.

    Args:
        composer: Composed the job.
        folder: Of the sweep.
        job: The best.
        about: A sentence about it, for the file's head.

    Returns:
        The words of the command that runs it. Where no file can express the job, it is the command that reproduces its
        run.
    """
    path = folder / "conf" / EXPERIMENT / f"{NAME}.yaml"
    extra = folder / "conf"
    words = ["ssl-train", "--config-dir", str(extra)]
    if composer.name != "config":
        words += ["--config-name", composer.name]
    words.append(f"{EXPERIMENT}={NAME}")
    if composer.extra_folder is not None:  # where the options are that it builds upon
        words.append(f"hydra.searchpath=[file://{composer.extra_folder}]")
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    try:
        defaults, values = _content(composer, job.overrides)
        for _ in range(2):
            _write(path, about, defaults, values)
            found = _composed(composer, extra, overrides)
            if config_hash(found) == job.config_hash:
                return words
            values |= _missing(found, job.config)
    except (ConfigError, *COMPOSITION_ERRORS):
        pass
    path.unlink(missing_ok=True)
    return ["ssl-train", f"reproduce={folder / job.name}"]


def _content(composer: Composer, overrides: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """The defaults list and the values, by dotted key, that these overrides are.

    Raises:
        ConfigError: One of them removes a key, which no file can.
    """
    experiments = composer.selection([word for word in overrides if word.startswith(f"{EXPERIMENT}=")])
    chosen = [path for path in experiments.packages if path.startswith(f"{EXPERIMENT}/")]
    groups: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for one in composer.parse(overrides):
        key = one.key_or_group
        if key in (EXPERIMENT, "sweep"):  # with its sweep it would be several runs
            continue
        if one.is_delete():
            raise ConfigError([f"{one.input_line}: no file can remove it"])
        if composer.is_group(key):
            place = f"/{key}@{one.package}" if one.package else f"/{key}"
            groups[place if one.is_add() else f"override {place}"] = one.value()
        else:
            values.update(flatten(one.value(), key))
    return [*(path.partition("/")[2] for path in chosen[-1:]), *({key: value} for key, value in groups.items())], values


def _write(path: Path, about: str, defaults: list[Any], values: dict[str, Any]) -> None:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        node, *names = nested, *key.split(".")
        for name in names[:-1]:
            if not isinstance(node.get(name), dict):
                node[name] = {}
            node = node[name]
        node[names[-1]] = value
    content: dict[str, Any] = {"defaults": [*defaults, "_self_"]} if defaults else {}
    text = yaml.safe_dump(content | nested, sort_keys=False, allow_unicode=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_text(f"# @package _global_\n# {about}\n{text}", "utf-8"))


def _composed(composer: Composer, extra: Path, overrides: list[str]) -> dict[str, Any]:
    return checked_config(Composer(composer.folder, extra, composer.name), overrides)[0]


def _missing(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The values that a config lacks or has otherwise, by dotted key."""
    have, want = flatten(found), flatten(wanted)
    differing = {line.partition(": ")[0] for line in config_difference(found, wanted)}
    return {key: value for key, value in want.items() if key in differing and (key not in have or have[key] != value)}
