"""How to train your MAML."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ssl_runner.algorithms.inner_classifier import Parameters, Statistics
from ssl_runner.algorithms.inner_loop import InnerLoop, key_of, refuse_rate
from ssl_runner.algorithms.meta_sgd import with_rates
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.batch_norm import BatchNorm2d
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext

AFFINE, AVERAGES = ("weight", "bias"), ("running_mean", "running_var")


class MAMLpp(InnerLoop):
    """MAML++ (Antoniou et al. 2019, arXiv:1810.09502, sec. 4): MAML with the six stabilisers of the paper.

    They are: an annealed multi-step loss; second-order gradients only after a share of the run; learned rates for each
    parameter and step; scale, shift and running statistics of batch normalisation for each step, which the inner loop
    does not change; and a cosine schedule of the outer rate, which is left to the scheduler. If evaluation takes more
    steps than training, the extra ones use the rates and the normalisation of the last step.

    The exported encoder is the one before adaptation, with the batch normalisation of the first step.

    Deviations: each parameter has its own rate, whereas in the paper a layer's weight and bias share one. With
    ``statistics=running``, running statistics are used (the authors' code keeps them but normalises by the batch).

    Args:
        network: See `InnerLoop`, also for loss, inner_steps, eval_inner_steps and statistics.
        inner_lr: Initial value of all rates, above 0.
        multi_step_share: Share of the run, from its start, during which the query losses after earlier steps count,
            with decreasing weight; in [0, 1].
        first_order_share: Share of the run, from its start, that is first order; in [0, 1].
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        inner_lr: float,
        inner_steps: int,
        eval_inner_steps: int,
        multi_step_share: float,
        first_order_share: float,
        statistics: Statistics,
    ) -> None:
        super().__init__(network, loss, inner_steps, eval_inner_steps, statistics)
        refuse_rate(inner_lr)
        for name, share in {"multi_step_share": multi_step_share, "first_order_share": first_order_share}.items():
            if not 0 <= share <= 1:
                raise InvalidValue(f"{name}={share}, but it is a share of the run; give a number in [0, 1]")
        self.multi_step_share, self.first_order_share = multi_step_share, first_order_share
        layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, BatchNorm2d)}
        self.affine = nn.ParameterDict()
        for layer, module in layers.items():
            for part in AFFINE:
                value = getattr(module, part).requires_grad_(False)  # replaced by the first step's value
                self.affine[key_of(f"{layer}.{part}")] = nn.Parameter(_for_steps(value, inner_steps + 1))
            for part in AVERAGES:
                self.register_buffer(key_of(f"{layer}.{part}"), _for_steps(getattr(module, part), inner_steps + 1))
        self.layers = layers
        adapting = self.initial().items()
        self.rates = nn.ParameterDict(
            {key_of(name): nn.Parameter(torch.full((inner_steps,), inner_lr)) for name, _ in adapting}
        )

    def adapts(self, name: str) -> bool:
        return key_of(name) not in self.affine

    def rate(self, name: str, step: int) -> Tensor:
        return self.rates[key_of(name)][min(step, self.inner_steps - 1)]

    def is_second_order(self, context: StepContext) -> bool:
        return context.progress >= self.first_order_share

    def emphasis(self, context: StepContext) -> list[float]:
        """Equal weights at first; those of the earlier steps fall linearly until only the last counts (sec. 4, MSL)."""
        left = max(0.0, 1 - context.progress / self.multi_step_share) if self.multi_step_share else 0.0
        earlier = left / self.inner_steps
        return [0.0, *[earlier] * (self.inner_steps - 1), 1 - earlier * (self.inner_steps - 1)]

    def figures(self) -> dict[str, Tensor]:
        """Every rate at every step."""
        return {
            f"inner_lr/{name}/{step}": rate for name, rates in self.rates.items() for step, rate in enumerate(rates)
        }

    def scores(self, weights: Parameters, begun: Tensor, step: int) -> Tensor:
        return functional_call(self.network, weights | self._normalisation(step), (begun,))

    def features(self, weights: Parameters, begun: Tensor, step: int) -> Tensor:
        return super().features(weights | self._normalisation(step), begun, step)

    @torch.no_grad()
    def after_step(self, context: StepContext, carry: dict[str, Tensor]) -> None:
        for index, (name, layer) in enumerate(self.layers.items()):
            assert layer.momentum is not None
            for part, seen in zip(AVERAGES, ("mean", "variance"), strict=True):
                average = self.get_buffer(key_of(f"{name}.{part}"))
                for step in range(self.inner_steps + 1):
                    average[step].lerp_(carry[f"{step}/{index}/{seen}"].mean(0), layer.momentum)
        for name, value in self._normalisation(0).items():
            place, _, part = name.rpartition(".")
            getattr(self.layers[place], part).copy_(value)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Rates and batch normalisation, whose parameters are (steps, channels) here, get no weight decay."""
        return with_rates(with_rates(super().parameter_groups(), self.rates), self.affine)

    def _normalisation(self, step: int) -> Parameters:
        """Scale, shift and running statistics of all layers after ``step`` steps, by their names in the network."""
        step = min(step, self.inner_steps)
        own = {f"{layer}.{part}" for layer in self.layers for part in AFFINE}
        kept = {f"{layer}.{part}" for layer in self.layers for part in AVERAGES}
        return {name: self.affine[key_of(name)][step] for name in own} | {
            name: self.get_buffer(key_of(name))[step] for name in kept
        }


def _for_steps(value: Tensor, steps: int) -> Tensor:
    return value.detach().repeat(steps, 1)
