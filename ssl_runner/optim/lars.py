"""LARS, an optimizer for large batches."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import collectives


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates (You et al. 2017, arXiv:1708.03888, eq. 6), as used by SimCLR, BYOL and Barlow Twins.

    For matrices and kernels (ndim > 1): g += weight_decay * w, then g *= trust * |w| / |g|, then momentum. Biases and
    normalisation parameters (ndim <= 1) use plain SGD with momentum and the weight decay of their group. The adaptation
    also applies without weight decay. If a norm is 0, the gradient is left unchanged. Deviation: the denominator in the
    paper is ``|g| + decay |w|`` with the gradient before decay.

    Args:
        params: Parameters or groups.
        lr: Above 0.
        momentum: In [0, 1).
        weight_decay: At least 0.
        trust: Trust coefficient eta, above 0.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float, weight_decay: float, trust: float = 0.001
    ) -> None:
        if not lr > 0 or not 0 <= momentum < 1 or not weight_decay >= 0 or not trust > 0:
            raise InvalidValue(
                f"lr={lr}, momentum={momentum}, weight_decay={weight_decay}, trust={trust}; give a rate and a trust "
                "above 0, a momentum in [0, 1) and a decay of at least 0"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moved:
                self._step(group, moved)
        return loss

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        weights = [parameter.detach() for parameter in parameters]
        slopes_of = [parameter.grad for parameter in parameters if parameter.grad is not None]
        gradients = list(torch._foreach_add(slopes_of, weights, alpha=group["weight_decay"]))
        adapted = [place for place, weight in enumerate(weights) if weight.ndim > 1]
        if adapted:
            measured = [side[place] for side in (weights, gradients) for place in adapted]
            norms, slopes = collectives.norms(measured).chunk(2)
            factors = torch.where((norms > 0) & (slopes > 0), group["trust"] * norms / slopes, 1.0)
            own = [collectives.own_rows(gradients[place]) for place in adapted]
            torch._foreach_mul_(own, list(factors.unbind()))
        buffers = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            buffers.append(state["momentum_buffer"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        torch._foreach_add_(weights, buffers, alpha=-group["lr"])
