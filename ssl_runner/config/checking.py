"""Checks a config against the constructors that it names, and reports all problems at once."""

import fnmatch
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_runner.config.hashing import join
from ssl_runner.config.renamed import with_current_names
from ssl_runner.config.signatures import UNKNOWN, accepts, check_arguments, check_value
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.config.targets import locate
from ssl_runner.errors import ConfigError


def check_config(
    config: DictConfig,
    root_keys: Mapping[str, Any] | Iterable[str],
    supplied: Mapping[str, Set[str]] | None = None,
) -> dict[str, Any]:
    """The config as plain dicts and lists, interpolations resolved.

    Args:
        config: A composed config.
        root_keys: Maps the keys allowed at the root to their annotations. Keys are dotted where the root holds groups
            (``model.encoder``, ``eval.*``); all but those with a star are required. A plain list of names only allows
            keys, without requiring them or checking their types.
        supplied: Maps the dotted path of a node to the names of arguments that code supplies.

    Raises:
        ConfigError: With every problem at once: unknown and missing keys, values of the wrong type, values that
            are still ``???``, interpolations of missing keys, targets that are not trusted or do not exist.
    """
    problems: list[str] = []
    plain = _plain(config, "", problems)
    plain.pop("hydra", None)
    return check_plain(plain, root_keys, supplied, problems)


def check_plain(
    plain: dict[str, Any],
    root_keys: Mapping[str, Any] | Iterable[str],
    supplied: Mapping[str, Set[str]] | None = None,
    problems: Sequence[str] = (),
) -> dict[str, Any]:
    """Like `check_config`, for a config of dicts and lists.

    Args:
        problems: Those that are known already.
    """
    problems = list(problems)
    plain, renamed = with_current_names(plain)
    for sentence in renamed:
        warnings.warn(f"{sentence}; the old name works until version 0.3", FutureWarning, stacklevel=2)
    annotations = root_keys if isinstance(root_keys, Mapping) else dict.fromkeys(root_keys, Any)
    for pattern in annotations:
        if pattern.endswith(".*"):
            plain.setdefault(pattern[:-2], {})  # none selected: eval=[]
    for key, annotation in annotations.items() if isinstance(root_keys, Mapping) else ():
        if not set("*.") & set(key) and accepts(annotation, None):
            plain.setdefault(key, None)  # removed: ~loss
    problems += _check_root(plain, annotations, required=isinstance(root_keys, Mapping))
    problems += _check_nodes(plain, "", supplied or {})
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return plain


def _plain(container: DictConfig | ListConfig, path: str, problems: list[str]) -> Any:
    """Dicts and lists of resolved values; UNKNOWN stands for a value that is missing."""
    if isinstance(container, ListConfig):
        return [_value(container, number, f"{path}[{number}]", problems) for number in range(len(container))]
    keys = [key for key in container if path or key != "hydra"]
    return {key: _value(container, key, join(path, key), problems) for key in keys}


def _value(container: Any, key: Any, path: str, problems: list[str]) -> Any:
    if OmegaConf.is_missing(container, key):
        problems.append(f"{path}: it has no value; set {path}=...")
        return UNKNOWN
    try:
        value = container[key]
    except OmegaConfBaseException as error:
        problems.append(f"{path}: {str(error).splitlines()[0]}")
        return UNKNOWN
    if isinstance(value, DictConfig) and "_target_" in value and OmegaConf.is_interpolation(container, key):
        problems.append(
            f"{path}: it points at a node with a _target_, which would be built a second time; copy its keys"
        )
        return UNKNOWN
    return _plain(value, path, problems) if isinstance(value, DictConfig | ListConfig) else value


def _check_root(plain: dict[str, Any], annotations: Mapping[str, Any], required: bool) -> list[str]:
    groups = {pattern.rpartition(".")[0] for pattern in annotations} - {""}
    entries: dict[str, Any] = {}
    problems = []
    for key, value in plain.items():
        if key not in groups:
            entries[key] = value
        elif isinstance(value, dict):
            entries |= {f"{key}.{name}": child for name, child in value.items()}
        elif value is not UNKNOWN:
            problems.append(
                f"{key}: got {value!r}, but it holds {', '.join(n for n in annotations if n.startswith(key))}"
            )
    for key, value in entries.items():
        pattern = next((pattern for pattern in annotations if fnmatch.fnmatchcase(key, pattern)), None)
        if pattern is None:
            problems.append(f"{key}: there is no such key{did_you_mean(key, annotations)}")
        else:
            problems += check_value(key, value, annotations[pattern])
    missing = [key for key in annotations if key not in entries and "*" not in key] if required else []
    return problems + [f"{key}: it is missing; set {key}=..." for key in missing]


def _check_nodes(value: Any, path: str, supplied: Mapping[str, Set[str]]) -> list[str]:
    """The problems of every node with a target, at any depth."""
    if isinstance(value, list):
        children = {f"{path}[{number}]": item for number, item in enumerate(value)}
    elif isinstance(value, dict):
        children = {join(path, key): item for key, item in value.items()}
    else:
        return []
    problems = []
    if isinstance(value, dict) and value.get("_target_", UNKNOWN) is not UNKNOWN:
        names = {name for pattern, names in supplied.items() if fnmatch.fnmatchcase(path, pattern) for name in names}
        try:
            problems += check_arguments(value, locate(value["_target_"]), path, names)
        except ValueError as error:
            problems.append(f"{path}._target_: {error}")
    for key, child in children.items():
        problems += _check_nodes(child, key, supplied)
    return problems
