"""The allow-list of ``_target_``, so that a config from a stranger cannot run their code."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ssl_runner.config import plugins
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import InvalidValue

# allowed prefixes of targets, and the module that must define what they name
_TRUSTED = {
    "ssl_runner": "ssl_runner",
    "torch.nn": "torch.nn",
    "torch.optim": "torch.optim",
    "torchvision.models": "torchvision.models",
    "timm.create_model": "timm",  # all of timm would include its functions that load pickled files
}

# these libraries refuse a value with a plain ValueError
LIBRARIES = ("torch", "torchvision", "timm")


def trusted() -> dict[str, str]:
    """Maps target prefixes to prefixes of the definition, including those of plugins."""
    return _TRUSTED | {package: package for package in plugins.packages()}


def locate(target: str) -> Callable[..., Any]:
    """The class or function with this dotted name.

    It is checked twice: by its spelling and by the module that defines it, since ``torch.nn.functional.torch.load`` has
    a trusted prefix.

    Raises:
        ValueError: The target is not trusted, does not exist, or cannot be called.
    """
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise InvalidValue(f"_target_={target!r} is not a dotted name of a class or function")
    allowed = trusted()
    if not any(_under(target, prefix) for prefix in allowed) or any(part[0] == "_" for part in target.split(".")):
        raise InvalidValue(f"{target} {_refusal(allowed)}")
    found = _resolve(target)
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if isinstance(found, ModuleType) or not callable(found):
        raise InvalidValue(f"{target} is not a class or function")
    if not isinstance(module, str) or not any(_under(f"{module}.{name}", prefix) for prefix in allowed.values()):
        raise InvalidValue(f"{target} is actually {module}.{name}, which {_refusal(allowed)}")
    return found


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _refusal(allowed: dict[str, str]) -> str:
    return (
        f"is not trusted; a config may name public parts of {', '.join(allowed)}. "
        f"To trust a package of your own, set {plugins.VARIABLE}=PACKAGE"
    )


def _resolve(target: str) -> Any:
    first, *parts = target.split(".")
    try:
        found: Any = importlib.import_module(first)
    except ModuleNotFoundError as error:
        raise InvalidValue(f"{target} needs the package {error.name}, which is not installed: pip install it") from None
    for number, part in enumerate(parts, start=1):
        name = ".".join([first, *parts[:number]])
        if not hasattr(found, part) and isinstance(found, ModuleType):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                if error.name != name:
                    raise InvalidValue(f"{target} needs the package {error.name}, which is not installed") from None
        if not hasattr(found, part):
            raise InvalidValue(f"{name} does not exist{did_you_mean(part, vars(found))}")
        found = getattr(found, part)
    return found
