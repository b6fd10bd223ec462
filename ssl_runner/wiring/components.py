"""Whether what a node describes can play its part in a run: a class of the right kind, which does one small thing."""

import inspect
import math
import sys
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.building import build
from ssl_runner.config.schema import Config
from ssl_runner.config.signatures import SPECIAL_KEYS
from ssl_runner.config.targets import locate
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import ConfigError
from ssl_runner.models.features import evaluating
from ssl_runner.models.network import Network

# least, less than, in words; torch itself lets a rate of 0 and a momentum of 1 pass
RATES = {
    "lr": (sys.float_info.min, math.inf, "a number above 0"),
    "momentum": (0, 1, "a number in [0, 1)"),
    "betas": (0, 1, "two numbers in [0, 1)"),
    "weight_decay": (0, math.inf, "a number of at least 0"),
    "eps": (0, math.inf, "a number of at least 0"),
}


def part(node: Config | None, path: str, role: type, **supplied: Any) -> Any:
    """What a node describes; None gives None.

    Raises:
        ConfigError: It is not of this role, or its constructor refused a value.
    """
    if node is not None:
        parameters = inspect.signature(locate(node["_target_"])).parameters
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        if lacking := [name for name in supplied if name not in parameters and not open_ended]:
            raise ConfigError([_another(node, path, f"takes no {', '.join(lacking)}", role)])
    made = build(node, path, **supplied)
    if node is not None and not isinstance(made, role):
        raise ConfigError([_another(node, path, f"makes a {type(made).__name__}", role)])
    return made


def method(node: Config) -> type[Algorithm]:
    """The class of algorithms that a node names.

    Raises:
        ConfigError: It names something else.
    """
    found: Any = locate(node["_target_"])
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError([_another(node, "algorithm", "is no algorithm", Algorithm)])
    return found


def parts_of(method: type[Algorithm], network: Network, loss: Any, n_way: int | None) -> dict[str, Any]:
    """What an algorithm is made of beside its config: the network, the loss if there is one, the ways if it asks."""
    parts = {"network": network} | ({} if loss is None else {"loss": loss})
    return parts | ({"n_way": n_way} if "n_way" in inspect.signature(method).parameters else {})


def _another(node: Config, path: str, what: str, role: type) -> str:
    group = path.partition(".")[0] if path.startswith("eval.") else path.replace(".", "/")
    return (
        f"{path}._target_: {node['_target_']} {what}, expected a {role.__name__} ({role.__module__}); "
        f"choose an option of the group {group}"
    )


def takes(node: Config, path: str, *supplied: str) -> None:
    """Raises ConfigError for a factory that cannot be called with the arguments that the runner supplies, in order."""
    target, own = locate(node["_target_"]), [key for key in node if key not in SPECIAL_KEYS]
    try:
        inspect.signature(target).bind(*supplied, **dict.fromkeys(own))
    except TypeError as error:
        what = f"cannot be called with ({', '.join(supplied)}) and its keys: {error}"
        raise ConfigError([f"{path}._target_: {node['_target_']} {what}"]) from None


def rates(node: Config) -> None:
    """Raises ConfigError for numbers of an optimizer with which nothing, or nothing good, would be learned."""
    problems = []
    for key, (low, high, words) in RATES.items():
        value = node.get(key)
        numbers = value if isinstance(value, list) else [value]
        if not all(low <= number < high for number in numbers if isinstance(number, int | float)):
            problems.append(f"optimizer.{key}={value}; give {words}")
    if problems:
        raise ConfigError(problems)


def optimizer(node: Config) -> None:
    """Make one for a single weight and let it step.

    Raises:
        ConfigError: It cannot.
    """
    weight = nn.Parameter(torch.zeros(1, 1))
    weight.grad = torch.zeros(1, 1)
    made = build(node, "optimizer")([weight])
    if not isinstance(made, torch.optim.Optimizer):
        raise ConfigError([_another(node, "optimizer", f"makes a {type(made).__name__}", torch.optim.Optimizer)])
    try:
        made.step()
    except (TypeError, RuntimeError) as error:  # LBFGS wants a closure, SparseAdam sparse gradients
        reason = " ".join(str(error).split())
        raise ConfigError(
            [f"optimizer: {type(made).__name__} cannot step here ({reason}); choose adam, adamw or sgd"]
        ) from None


def name(given: str) -> None:
    """Raises ConfigError for a name that is no folder below another."""
    path = PurePath(given)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ConfigError([f"name={given!r}: it names a folder of runs below outputs/; give a word, say name=run"])


def views(augmentation: Augmentation, splits: Splits, network: Network) -> None:
    """Augment one image and send it through the network.

    Raises:
        ConfigError: The network cannot take it.
    """
    image = splits.train.images[:1]
    _forward(network, image, "model")
    view = augmentation(image, torch.zeros(1, augmentation.columns))
    if view.shape != image.shape:
        _forward(network, view, f"augmentation: it makes {_pixels(view)} of images of {_pixels(image)}")


def _forward(network: Network, images: Tensor, who: str) -> None:
    try:
        with evaluating(network):
            network(images)
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:  # timm asserts the size of images
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError([f"{who}: the network cannot take images of {_pixels(images)} ({reason})"]) from None


def _pixels(images: Tensor) -> str:
    return f"{images.shape[1]} x {images.shape[2]} x {images.shape[3]}"


def loss_for(method: type[Algorithm], loss: Any) -> None:
    """Raises ConfigError where the algorithm takes a loss and there is none, or the other way round."""
    parameter = inspect.signature(method).parameters.get("loss")
    if parameter is None and loss is not None:
        raise ConfigError([f"algorithm {method.__name__} takes no loss; take it away with ~loss"])
    if loss is None and parameter is not None and parameter.default is inspect.Parameter.empty:
        raise ConfigError(
            [f"algorithm {method.__name__} needs a loss, and there is none; choose loss=nt_xent or another"]
        )
