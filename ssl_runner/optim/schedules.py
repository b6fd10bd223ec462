"""Learning-rate schedules. They are pure functions of the step, so there is nothing to save. Units are steps."""

import math
from typing import Protocol, runtime_checkable

from ssl_runner.errors import InvalidValue


@runtime_checkable
class Schedule(Protocol):
    """A factor for the base learning rate of every group.

    A schedule that does not depend on ``max_steps`` has a true attribute ``open_ended``: a run with it may be extended.
    One that changes the weight decay, too, has a number as ``final_weight_decay`` (`ssl_runner.optim.rates`).
    """

    def __call__(self, step: int, max_steps: int) -> float: ...


def half_cosine(first: float, final: float, progress: float) -> float:
    """From ``first`` at progress 0 to ``final`` at 1, along half a cosine (arXiv:1608.03983, eq. 5, one period)."""
    return final + (first - final) * (1 + math.cos(math.pi * progress)) / 2


def straight(first: float, final: float, progress: float) -> float:
    """From ``first`` at progress 0 to ``final`` at 1, in a straight line."""
    return first + (final - first) * progress


class Constant:
    """The base rate at every step."""

    open_ended = True

    def __call__(self, step: int, max_steps: int) -> float:
        return 1.0


class WarmupCosine:
    """Linear warm-up, then half a cosine down (Loshchilov & Hutter 2016, arXiv:1608.03983).

    Step s of the warm-up has the factor (s + 1) / warmup_steps, so the rate of the first step is above 0. The first
    step after the warm-up has the full rate.

    Args:
        warmup_steps: At least 0. A run that is shorter ends during the warm-up.
        final: Share of the base rate at the end of the cosine, in [0, 1].
        final_weight_decay: Weight decay at the end, at least 0; half a cosine from the optimizer's at the first step
            (DINO, arXiv:2104.14294, sec. 3.2: from 0.04 to 0.4). null leaves it constant. Configs of earlier versions
            lack it.
    """

    def __init__(self, warmup_steps: int, final: float, final_weight_decay: float | None = None) -> None:
        if warmup_steps < 0 or not 0 <= final <= 1:
            raise InvalidValue(f"warmup_steps={warmup_steps}, final={final}; give at least 0, and a share in [0, 1]")
        if final_weight_decay is not None and not 0 <= final_weight_decay < math.inf:
            raise InvalidValue(f"final_weight_decay={final_weight_decay}; give at least 0, or null for a constant one")
        self.final_weight_decay = final_weight_decay
        self.warmup_steps = warmup_steps
        self.final = final

    def __call__(self, step: int, max_steps: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / (max_steps - self.warmup_steps)
        return half_cosine(1.0, self.final, progress)


class StepDecay:
    """Multiplies the rate by a factor at regular intervals.

    Args:
        every: Steps between two decays, at least 1.
        factor: In (0, 1].
    """

    open_ended = True

    def __init__(self, every: int, factor: float) -> None:
        if every < 1 or not 0 < factor <= 1:
            raise InvalidValue(f"every={every}, factor={factor}; give at least 1 step, and a factor in (0, 1]")
        self.every = every
        self.factor = factor

    def __call__(self, step: int, max_steps: int) -> float:
        return self.factor ** (step // self.every)
