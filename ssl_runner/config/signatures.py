"""Checks the keys of a config node against the signature of its class or function: constructors are the schema."""

import inspect
import math
from collections.abc import Callable, Mapping, Set
from enum import Enum
from functools import cache
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from ssl_runner.config.suggestions import did_you_mean

SPECIAL_KEYS = ("_target_", "_partial_", "_args_")
PathText = Annotated[str, "path"]  # a path on this machine; stored as an absolute path in a run's config
UNKNOWN: Any = object()  # stands for a value that could not be resolved; reported elsewhere


class Node:
    """As a root key's annotation: a mapping with a ``_target_``."""


class Factory:
    """As a root key's annotation: a `Node` with ``_partial_: true``, since code supplies the remaining arguments."""


def check_arguments(node: Mapping[str, Any], target: Callable[..., Any], path: str, supplied: Set[str]) -> list[str]:
    """Problems of a node's keys, compared with the signature of its target.

    Args:
        node: A resolved node; nested nodes are not checked.
        target: The class or function that ``_target_`` names.
        path: Dotted key of the node.
        supplied: Names of the arguments that code supplies when it builds the node.
    """
    try:
        parameters = _parameters(target)
    except ValueError:  # some built-in callables have no signature
        return []
    kinds = {parameter.kind for parameter in parameters.values()}
    named = {name: parameter for name, parameter in parameters.items() if _by_name(parameter)}
    call = f"{getattr(target, '__name__', target)}()"
    problems = []
    for key, value in node.items():
        if key in SPECIAL_KEYS:
            continue
        if key in supplied:
            problems.append(f"{path}.{key}: the runner supplies it to {call}; remove it")
        elif key in named:
            problems += check_value(f"{path}.{key}", value, named[key].annotation, named[key].default)
        elif str(key)[:1] == "_" or inspect.Parameter.VAR_KEYWORD not in kinds:
            problems.append(f"{path}.{key}: {call} has no such parameter{_alternatives(key, named, supplied)}")
    if node.get("_partial_") is True or "_args_" in node:
        return problems  # code supplies the rest
    required = [name for name, parameter in named.items() if parameter.default is inspect.Parameter.empty]
    missing = [name for name in required if name not in node and name not in supplied]
    return problems + [f"{path}.{name}: {call} needs it; set {path}.{name}=..." for name in missing]


def _alternatives(key: str, named: Mapping[str, inspect.Parameter], supplied: Set[str]) -> str:
    names = [name for name in named if name not in supplied]
    return did_you_mean(key, names) or f"; it has {', '.join(names) or 'none'}"


def paths_of(target: Callable[..., Any]) -> list[str]:
    """Names of the parameters that are annotated as `PathText`, or as `PathText` or null."""
    try:
        parameters = _parameters(target)
    except ValueError:  # some built-in callables have no signature
        return []
    kinds = {name: parameter.annotation for name, parameter in parameters.items()}
    return [name for name, kind in kinds.items() if PathText in (kind, *get_args(kind))]


@cache
def _parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (NameError, AttributeError, TypeError, SyntaxError):  # annotations that only a type checker can read
        return inspect.signature(target).parameters


def _by_name(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_value(path: str, value: Any, annotation: Any, default: Any = inspect.Parameter.empty) -> list[str]:
    """A list with one problem if the value is certainly not of the annotated type, else an empty list."""
    if isinstance(value, dict) and "_target_" not in value and _maps_to(annotation) is not None:
        items = {f"{path}.{key}": item for key, item in value.items()}
        return [problem for key, item in items.items() for problem in check_value(key, item, _maps_to(annotation))]
    annotated = annotation is not Any and annotation is not inspect.Parameter.empty
    null_fits = default is None or (annotated and accepts(annotation, None))
    if value in ("None", "none", "Null", "NULL") and (null_fits or not accepts(annotation, value)):
        remedy = f"null is null in YAML: {path}=null" if null_fits else f"expected {expected(annotation)}"
        return [f"{path}: got the string {value!r}; {remedy}"]
    if accepts(annotation, value):
        endless = [number for number in (value if isinstance(value, list) else [value]) if _endless(number)]
        return [f"{path}: got {number}, expected a finite number" for number in endless]
    got = "a node" if isinstance(value, dict) else f"{value!r} ({'null' if value is None else type(value).__name__})"
    return [f"{path}: got {got}, expected {expected(annotation)}{_remedy(value, annotation)}"]


def _maps_to(annotation: Any) -> Any:
    """The annotation of the values of a mapping, or of a mapping or null; None for any other annotation."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for kind in kinds:
        origin, arguments = get_origin(kind), get_args(kind)
        if isinstance(origin, type) and issubclass(dict, origin) and len(arguments) == 2:
            return arguments[1]
    return None


def _endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)  # .inf and .nan make no sense for any key


def accepts(annotation: Any, value: Any) -> bool:
    """Whether a plain value may be of the annotated type; True for annotations that are not understood."""
    if value is UNKNOWN or annotation is Any or annotation is inspect.Parameter.empty:
        return True
    if annotation is Node:
        return isinstance(value, dict) and "_target_" in value
    if annotation is Factory:
        return isinstance(value, dict) and "_target_" in value and value.get("_partial_") is True
    if isinstance(value, dict) and "_target_" in value:
        return True  # the node becomes an object whose type is not known yet
    if annotation is None or annotation is NoneType:
        return value is None
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return accepts(arguments[0], value)
    if origin is Union or origin is UnionType:
        return any(accepts(argument, value) for argument in arguments)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    if annotation in (int, float):
        numbers = (int, float) if annotation is float else int
        return isinstance(value, numbers) and not isinstance(value, bool)
    return _accepts_class(origin or annotation, arguments, value)


def _accepts_class(kind: Any, arguments: tuple[Any, ...], value: Any) -> bool:
    if not isinstance(kind, type) or issubclass(kind, Enum | PurePath) or getattr(kind, "_is_protocol", False):
        return True
    if isinstance(value, list) and (kind in (tuple, set, frozenset) or issubclass(list, kind)):
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(accepts, arguments, value))
        return not arguments or all(accepts(arguments[0], item) for item in value)
    if isinstance(value, dict) and issubclass(dict, kind):
        return len(arguments) != 2 or all(accepts(arguments[1], item) for item in value.values())
    if isinstance(value, str):
        return kind is str or kind is object  # not a sequence of characters
    return isinstance(value, kind)


def expected(annotation: Any) -> str:
    """An annotation in words."""
    if annotation is Node:
        return "a node with a _target_"
    if annotation is Factory:
        return "a node with a _target_ and _partial_: true"
    if annotation is None or annotation is NoneType:
        return "null"
    if get_origin(annotation) is Literal:
        return " or ".join(repr(option) for option in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(expected(argument) for argument in get_args(annotation))
    if get_origin(annotation) is None and isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def _remedy(value: Any, annotation: Any) -> str:
    members = {annotation, *get_args(annotation)}
    if isinstance(value, float) and value.is_integer() and accepts(annotation, int(value)):
        return f"; write {int(value)}"
    if not isinstance(value, str):
        return ""
    if members & {int, float} and value.replace(".", "", 1).replace("e-", "", 1).isdigit():
        return "; write it without quotes"
    literals = [option for member in members if get_origin(member) is Literal for option in get_args(member)]
    if get_origin(annotation) is Literal:
        literals = list(get_args(annotation))
    return did_you_mean(value, [option for option in literals if isinstance(option, str)])
