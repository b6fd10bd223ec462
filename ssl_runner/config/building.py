"""Builds objects from config nodes; the only place that instantiates."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ssl_runner.config.hashing import flatten, join
from ssl_runner.config.targets import LIBRARIES, locate
from ssl_runner.errors import ConfigError, DataError, InvalidValue


@contextmanager
def user_mistakes(path: str, refusal: type[ValueError] = InvalidValue) -> Iterator[None]:
    """Inside, an error about a refused value becomes a ConfigError that names this node.

    Subclasses of the error pass unchanged, since they name the problem themselves. One exception: a dataset calls its
    keys ``dataset.KEY``, and if its node has another path, they become ``path.KEY``.

    Args:
        path: Dotted key of the node.
        refusal: The exception with which the constructor refuses a value. Libraries raise a plain ValueError; in our
            own code that is a bug and keeps its traceback.
    """
    try:
        yield
    except DataError as error:
        if path in ("", "dataset"):
            raise
        message = re.sub(r"(?<![\w./])dataset\.(?=\w)", lambda _: f"{path}.", str(error))
        raise type(error)(message) from None
    except refusal as error:
        if type(error) is not refusal:
            raise
        named = not path or str(error).startswith((f"{path}.", f"{path}:"))
        raise ConfigError([str(error) if named else f"{path}: {error}"]) from error


def build(node: Any, path: str = "", **supplied: Any) -> Any:
    """The object that a node describes: the only place that instantiates.

    The special keys are Hydra's (``_target_``, ``_partial_``, ``_args_``). Values are plain, so no ListConfig leaks.
    A ``_partial_`` node becomes a factory. Supplied objects are passed on unchanged.

    Args:
        node: A plain node. None becomes None, and a container of nodes becomes a container of objects.
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
    arguments = {key: _build(item, join(path, key), {}) for key, item in value.items()}
    if "_target_" not in arguments:
        return arguments
    target = locate(arguments.pop("_target_"))
    positional = arguments.pop("_args_", [])
    partial = arguments.pop("_partial_", False)
    factory = functools.partial(_call, path, target, *positional, **{**arguments, **supplied})
    return factory if partial else factory()


def _call(path: str, target: Callable[..., Any], /, *positional: Any, **arguments: Any) -> Any:
    library = getattr(target, "__module__", "").partition(".")[0] in LIBRARIES
    with user_mistakes(path, ValueError if library else InvalidValue):
        return target(*positional, **arguments)
