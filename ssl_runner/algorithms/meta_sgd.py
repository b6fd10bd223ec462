"""Learned inner learning rates, one for each weight."""

from typing import Any

import torch
from torch import Tensor, nn

from ssl_runner.algorithms.inner_classifier import Statistics
from ssl_runner.algorithms.inner_loop import InnerLoop, key_of, refuse_rate
from ssl_runner.losses.loss import Loss
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext


class MetaSGD(InnerLoop):
    """Meta-SGD (Li et al. 2017, arXiv:1707.09835, alg. 1): MAML that learns the rate of each weight, with its sign.

    Rates get no weight decay. Deviation: the paper draws them at random from [0.005, 0.1]; here all start equal.

    Args:
        network: See `InnerLoop`, also for loss, inner_steps, eval_inner_steps and statistics.
        inner_lr: Initial value of all rates, above 0.
        second_order: Whether to differentiate through the inner steps.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        inner_lr: float,
        inner_steps: int,
        eval_inner_steps: int,
        second_order: bool,
        statistics: Statistics,
    ) -> None:
        super().__init__(network, loss, inner_steps, eval_inner_steps, statistics)
        refuse_rate(inner_lr)
        self.second_order = second_order
        rates = {key_of(name): nn.Parameter(torch.full_like(value, inner_lr)) for name, value in self.initial().items()}
        self.rates = nn.ParameterDict(rates)

    def rate(self, name: str, step: int) -> Tensor:
        return self.rates[key_of(name)]

    def is_second_order(self, context: StepContext) -> bool:
        return self.second_order

    def figures(self) -> dict[str, Tensor]:
        """The mean rate of each parameter, and the share of all rates that have become negative."""
        means = {f"inner_lr/{name}": rate.detach().mean() for name, rate in self.rates.items()}
        flat = torch.cat([rate.detach().flatten() for rate in self.rates.values()])
        return means | {"inner_lr_negative": (flat < 0).float().mean()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return with_rates(super().parameter_groups(), self.rates)


def with_rates(groups: list[dict[str, Any]], rates: nn.Module) -> list[dict[str, Any]]:
    """The optimizer groups with the rates moved to a group of their own, without weight decay."""
    own = {id(rate) for rate in rates.parameters()}
    rest = [group | {"params": [value for value in group["params"] if id(value) not in own]} for group in groups]
    return [group for group in rest if group["params"]] + [{"params": list(rates.parameters()), "weight_decay": 0.0}]
