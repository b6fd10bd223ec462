"""Checks that the object of a config node can do its job in a run: it has the right class and passes a small test."""

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
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import ConfigError
from ssl_runner.models.features import evaluating
from ssl_runner.models.network import Network

# minimum, exclusive maximum, in words; torch itself accepts a rate of 0 and a momentum of 1
RATES = {
    "lr": (sys.float_info.min, math.inf, "a number above 0"),
    "momentum": (0, 1, "a number in [0, 1)"),
    "betas": (0, 1, "two numbers in [0, 1)"),
    "weight_decay": (0, math.inf, "a number of at least 0"),
    "eps": (0, math.inf, "a number of at least 0"),
}


def part(node: Config | None, path: str, role: type, **supplied: Any) -> Any:
    """The object that a node describes, or None for None.

    Args:
        node: A checked config node, or None.
        path: Dotted key of the node.
        role: The class that the object must have.
        supplied: Further arguments of the constructor.

    Raises:
        ConfigError: The object does not have this role, or its constructor refused a value.
    """
    if node is not None:
        parameters = inspect.signature(locate(node["_target_"])).parameters
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        if lacking := [name for name in supplied if name not in parameters and not open_ended]:
            raise ConfigError([_another(node, path, f"takes no {', '.join(lacking)}", role)])
    built = build(node, path, **supplied)
    if node is not None and not isinstance(built, role):
        raise ConfigError([_another(node, path, f"makes a {type(built).__name__}", role)])
    return built


def method(node: Config) -> type[Algorithm]:
    """The algorithm class that a node names.

    Raises:
        ConfigError: The node names something else.
    """
    found: Any = locate(node["_target_"])
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError([_another(node, "algorithm", "is not an algorithm", Algorithm)])
    return found


def parts_of(method: type[Algorithm], network: Network, loss: Any, n_way: int | None) -> dict[str, Any]:
    """The arguments of an algorithm that are not in its config: the network, the loss if any, n_way if it takes one."""
    parts = {"network": network} | ({} if loss is None else {"loss": loss})
    return parts | ({"n_way": n_way} if "n_way" in inspect.signature(method).parameters else {})


def _another(node: Config, path: str, what: str, role: type) -> str:
    group = path.partition(".")[0] if path.startswith("eval.") else path.replace(".", "/")
    return (
        f"{path}._target_: {node['_target_']} {what}, expected a {role.__name__} ({role.__module__}); "
        f"choose an option of the group {group}"
    )


def takes(node: Config, path: str, *supplied: str) -> None:
    """Raises ConfigError if a factory cannot be called with the arguments that the runner supplies, in this order."""
    target, own = locate(node["_target_"]), [key for key in node if key not in SPECIAL_KEYS]
    try:
        inspect.signature(target).bind(*supplied, **dict.fromkeys(own))
    except TypeError as error:
        what = f"cannot be called with ({', '.join(supplied)}) and its keys: {error}"
        raise ConfigError([f"{path}._target_: {node['_target_']} {what}"]) from None


def rates(node: Config) -> None:
    """Raises ConfigError for optimizer settings with which nothing useful can be learned."""
    problems = []
    for key, (low, high, words) in RATES.items():
        value = node.get(key)
        numbers = value if isinstance(value, list) else [value]
        if not all(low <= number < high for number in numbers if isinstance(number, int | float)):
            problems.append(f"optimizer.{key}={value}; give {words}")
    if problems:
        raise ConfigError(problems)


def decay(node: Config, schedule: Any) -> None:
    """Raises ConfigError if the schedule changes a weight decay that the optimizer does not have."""
    final = getattr(schedule, "final_weight_decay", None)
    parameter = inspect.signature(locate(node["_target_"])).parameters.get("weight_decay")
    if final is None or node.get("weight_decay", parameter.default if parameter else 0):
        return
    has = "takes no weight decay" if parameter is None else "starts without weight decay"
    remedy = "null" if parameter is None else "null, or optimizer.weight_decay=0.04"
    raise ConfigError(
        [f"scheduler.final_weight_decay={final}, but the optimizer {has}; set scheduler.final_weight_decay={remedy}"]
    )


def optimizer(node: Config) -> None:
    """Build the optimizer for a single weight and take a step.

    Raises:
        ConfigError: This is not an optimizer, or it cannot take a step.
    """
    weight = nn.Parameter(torch.zeros(1, 1))
    weight.grad = torch.zeros(1, 1)
    built = build(node, "optimizer")([weight])
    if not isinstance(built, torch.optim.Optimizer):
        raise ConfigError([_another(node, "optimizer", f"makes a {type(built).__name__}", torch.optim.Optimizer)])
    try:
        built.step()
    except (TypeError, RuntimeError) as error:  # LBFGS needs a closure, SparseAdam sparse gradients
        reason = " ".join(str(error).split())
        raise ConfigError(
            [f"optimizer: {type(built).__name__} cannot be used here ({reason}); choose adam, adamw or sgd"]
        ) from None


def optimizer_of(node: Config, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of a run; on CUDA in few kernels, if it is one of torch's that can do this."""
    fused = "fused" in inspect.signature(locate(node["_target_"])).parameters
    chosen = {"fused", "foreach", "differentiable"} & node.keys()
    if device.type == "cuda" and fused and not chosen:
        return build(node, "optimizer")(groups, fused=True)
    return build(node, "optimizer")(groups)


def name(given: str) -> None:
    """Raises ConfigError for a name that is not a path below the outputs folder."""
    path = PurePath(given)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ConfigError([f"name={given!r}: expected the name of a folder below outputs/; give a word, say name=run"])


def views(augmentation: Augmentation, splits: Splits, network: Network) -> None:
    """Augment one image and pass it through the network.

    Raises:
        ConfigError: The network cannot take it.
    """
    image = splits.train.images[:1]
    if (reason := _refusal(network, image)) is not None:
        raise ConfigError([f"model: {reason}"])
    view = augmentation(image, torch.zeros(1, augmentation.columns))
    if view.shape != image.shape and (reason := _refusal(network, view)) is not None:
        turns = f"augmentation: it turns images of {_pixels(image)} into {_pixels(view)}"
        raise ConfigError([f"{turns}: {reason}"])


def smaller_views(batching: Batching, splits: Splits, network: Network) -> None:
    """Pass a view of each further resolution of the batches through the network.

    Raises:
        ConfigError: The network cannot take it.
    """
    for view in batching.smaller(splits.train.images[:1]):
        if (reason := _refusal(network, view)) is None:
            continue
        patch = getattr(network.encoder.backbone, "patch_size", None)
        size = -(-view.shape[-1] // patch) * patch if isinstance(patch, int) else "a size that it takes"
        remedy = f"set batching.local_pool=1 and batching.local_augmentation.transforms.crop.size={size}"
        raise ConfigError([f"batching: its local views: {reason}; {remedy}"])


def _refusal(network: Network, images: Tensor) -> str | None:
    """Why the network cannot take images, or None if it can."""
    try:
        with evaluating(network):
            network(images)
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:  # timm asserts the image size
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        return f"the network cannot take images of {_pixels(images)} ({reason})"
    return None


def _pixels(images: Tensor) -> str:
    return f"{images.shape[1]} x {images.shape[2]} x {images.shape[3]}"


def loss_for(method: type[Algorithm], loss: Any) -> None:
    """Raises ConfigError if the algorithm needs a loss and there is none, or takes none and there is one."""
    parameter = inspect.signature(method).parameters.get("loss")
    if parameter is None and loss is not None:
        raise ConfigError([f"algorithm {method.__name__} takes no loss; remove it with ~loss"])
    if loss is None and parameter is not None and parameter.default is inspect.Parameter.empty:
        raise ConfigError(
            [f"algorithm {method.__name__} needs a loss, but none is set; choose loss=nt_xent or another"]
        )
