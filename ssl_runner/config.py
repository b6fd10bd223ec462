"""Checks a config against the constructors it names, builds from it, and tells two configs apart."""

import fnmatch
import functools
import hashlib
import json
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_runner.data.roots import DataError
from ssl_runner.signatures import UNKNOWN, accepts, check_arguments, check_value
from ssl_runner.spelling import did_you_mean
from ssl_runner.targets import locate

# what cannot change a result, and may therefore differ on resume; patterns of dotted keys
OUTSIDE_THE_HASH = (
    "resume",
    "reproduce",
    "dry_run",
    "name",
    "dataset.root",
    "dataset.*.root",
    "eval.*.dataset.root",
    "eval.*.dataset.*.root",
    "dataset.encoder",  # where it lies; what it is stands in the data's fingerprint
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.panel_every",
    "trainer.stop_on_collapse",
    "trainer.progress",
    "trainer.timeout",
    "trainer.keep_pages",
)


# where a run ends, which is part of the hash; but one whose course does not hang on it may be given another end
END = ("trainer.max_steps", "trainer.max_epochs")


class ConfigError(ValueError):
    """What is wrong with a config, all of it.

    Attributes:
        problems: One sentence each, beginning with the dotted key.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__(self.problems)  # the argument, so that a sweep's worker can pickle it

    def __str__(self) -> str:
        return "\n".join(self.problems)


def of_the_house(error: Exception) -> bool:
    """Whether the message is addressed to the user: an exception class of ours, or a ValueError raised in our code."""
    places = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = isinstance(error, ValueError) and "".join(places[-1:]).startswith("ssl_runner.")
    return ours or type(error).__module__.startswith("ssl_runner.")


@contextmanager
def user_mistakes(path: str) -> Iterator[None]:
    """Inside, a bare ValueError is about the values of this node: it becomes a ConfigError that names the node.

    Subclasses of ValueError pass: those of the house speak for themselves, others are nobody's wrong value. But a
    dataset calls its keys ``dataset.KEY``, and in an error of one that stands elsewhere they become ``path.KEY``.
    """
    try:
        yield
    except DataError as error:
        if path in ("", "dataset"):
            raise
        message = re.sub(r"(?<![\w./])dataset\.(?=\w)", lambda _: f"{path}.", str(error))
        raise type(error)(message) from None
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError([f"{path}: {error}" if path else str(error)]) from error


def check_config(
    config: DictConfig,
    root_keys: Mapping[str, Any] | Iterable[str],
    supplied: Mapping[str, Set[str]] | None = None,
) -> dict[str, Any]:
    """The config as plain dicts and lists, interpolations resolved.

    Args:
        config: Composed.
        root_keys: What may stand at the root, dotted where the root holds groups (``model.encoder``, ``eval.*``),
            with its annotation; all but the starred are required. A bare list of names requires and types nothing.
        supplied: Dotted path of a node to names of arguments that code supplies.

    Raises:
        ConfigError: With every problem at once: unknown and missing keys, values of the wrong type, values that
            are still ``???``, interpolations that lead nowhere, targets that are not trusted or do not exist.
    """
    problems: list[str] = []
    plain = _plain(config, "", problems)
    plain.pop("hydra", None)
    annotations = root_keys if isinstance(root_keys, Mapping) else dict.fromkeys(root_keys, Any)
    for pattern in annotations:
        if pattern.endswith(".*"):
            plain.setdefault(pattern[:-2], {})  # none selected: eval=[]
    for key, annotation in annotations.items() if isinstance(root_keys, Mapping) else ():
        if not set("*.") & set(key) and accepts(annotation, None):
            plain.setdefault(key, None)  # taken away: ~loss
    problems += _check_root(plain, annotations, required=isinstance(root_keys, Mapping))
    problems += _check_nodes(plain, "", supplied or {})
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return plain


def _plain(container: DictConfig | ListConfig, path: str, problems: list[str]) -> Any:
    """Dicts and lists of resolved values; UNKNOWN where there is none."""
    if isinstance(container, ListConfig):
        return [_value(container, number, f"{path}[{number}]", problems) for number in range(len(container))]
    keys = [key for key in container if path or key != "hydra"]
    return {key: _value(container, key, _join(path, key), problems) for key in keys}


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


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


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
    """Problems of every node with a target, at any depth."""
    if isinstance(value, list):
        children = {f"{path}[{number}]": item for number, item in enumerate(value)}
    elif isinstance(value, dict):
        children = {_join(path, key): item for key, item in value.items()}
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


def build(node: Any, path: str = "", **supplied: Any) -> Any:
    """The object that a node describes: the only place that instantiates.

    The words are Hydra's (``_target_``, ``_partial_``, ``_args_``), the values plain: no ListConfig leaks. A
    ``_partial_`` node gives a factory. Supplied objects are handed over as they are.

    Args:
        node: Plain; None gives None, and so does a container of nodes give a container of objects.
        path: Dotted key, for messages.
        supplied: Further arguments of the outermost target.

    Raises:
        ConfigError: A target is not trusted, or a constructor (or a factory, when called) refused a value.
    """
    _refuse_targets(node, path)  # all of them, before the first constructor runs
    return _build(node, path, supplied)


def _refuse_targets(value: Any, path: str) -> None:
    for key, target in flatten(value, path).items():
        if key.rpartition(".")[2] == "_target_":
            with user_mistakes(key):
                locate(target)


def _build(value: Any, path: str, supplied: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_build(item, f"{path}[{number}]", {}) for number, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    arguments = {key: _build(item, _join(path, key), {}) for key, item in value.items()}
    if "_target_" not in arguments:
        return arguments
    target = locate(arguments.pop("_target_"))
    positional = arguments.pop("_args_", [])
    partial = arguments.pop("_partial_", False)
    factory = functools.partial(_call, path, target, *positional, **{**arguments, **supplied})
    return factory if partial else factory()


def _call(path: str, target: Callable[..., Any], /, *positional: Any, **arguments: Any) -> Any:
    with user_mistakes(path):
        return target(*positional, **arguments)


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted keys and values; lists are values unless they hold mappings, and so are empty mappings."""
    if isinstance(value, Mapping) and value:
        children = {_join(path, key): item for key, item in value.items()}
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        children = {f"{path}[{number}]": item for number, item in enumerate(value)}
    else:
        return {path: value}
    return {key: leaf for name, child in children.items() for key, leaf in flatten(child, name).items()}


def _inside_the_hash(config: Mapping[str, Any]) -> dict[str, Any]:
    flat = flatten(config)
    outside = {key for key in flat for pattern in OUTSIDE_THE_HASH if fnmatch.fnmatchcase(key, pattern)}
    return {key: _canonical(value) for key, value in flat.items() if key not in outside}


def _canonical(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # lr=1 and lr=1.0 are the same run
    return value


def config_hash(config: Mapping[str, Any], but: Sequence[str] = ()) -> str:
    """Sixteen hex digits of all that can change the result; see OUTSIDE_THE_HASH for what cannot.

    Args:
        but: Dotted keys that are left out.
    """
    text = json.dumps({key: value for key, value in _inside_the_hash(config).items() if key not in but}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_difference(before: Mapping[str, Any], after: Mapping[str, Any], but: Sequence[str] = ()) -> list[str]:
    """Lines ``optimizer.lr: 0.1 -> 0.2`` of what differs inside the hash, less the dotted keys ``but``."""
    first, second = _inside_the_hash(before), _inside_the_hash(after)
    keys = sorted((first.keys() | second.keys()) - set(but))
    show = {key: tuple(repr(side[key]) if key in side else "(absent)" for side in (first, second)) for key in keys}
    return [f"{key}: {old} -> {new}" for key, (old, new) in show.items() if old != new]
