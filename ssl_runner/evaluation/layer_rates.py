"""Learning rates that fall from an encoder's last layer to its first."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ssl_runner.models.depths import depths
from ssl_runner.models.network import Encoder
from ssl_runner.optim.rates import layer_factors

Part = tuple[list[nn.Parameter], float]


def layer_rates(encoder: Encoder, lr: float, decay: float) -> list[Part]:
    """The encoder's parameters with their learning rates: lr * decay^(L - l) in layer l, where L is the classifier's.

    With a decay of 1, or without parameters, all are one part.

    Raises:
        ValueError: The encoder does not say which layers it has.
    """
    if decay == 1 or not list(encoder.parameters()):
        return [(list(encoder.parameters()), lr)]
    factors, layers = layer_factors(*depths(encoder), decay), dict[float, list[nn.Parameter]]()
    for name, weight in encoder.named_parameters():
        layers.setdefault(factors[name], []).append(weight)
    return [(weights, lr * factor) for factor, weights in layers.items()]


def parameter_groups(parts: Sequence[Part], weight_decay: float) -> list[dict[str, Any]]:
    """An optimizer's groups, with ``initial_lr``; biases and normalisation parameters get no weight decay."""
    groups = []
    for parameters, rate in parts:
        for matrices, decay in ((True, weight_decay), (False, 0.0)):
            weights = [weight for weight in parameters if (weight.ndim > 1) == matrices]
            if weights:
                groups.append({"params": weights, "initial_lr": rate, "lr": rate, "weight_decay": decay})
    return groups
