"""Learning-rate schedules: pure functions of the step, so there is nothing to save. Units are steps."""

import math
from typing import Protocol, runtime_checkable

from ssl_runner.errors import InvalidValue


@runtime_checkable
class Schedule(Protocol):
    """A multiplier of every group's base rate.

    One that does not look at ``max_steps`` says so with an attribute ``open_ended`` that is true: a run with it may be
    given a later end.
    """

    def __call__(self, step: int, max_steps: int) -> float: ...


def half_cosine(first: float, final: float, progress: float) -> float:
    """From ``first`` at progress 0 to ``final`` at 1, along half a cosine (arXiv:1608.03983, eq. 5, one period)."""
    return final + (first - final) * (1 + math.cos(math.pi * progress)) / 2


class Constant:
    """The base rate throughout."""

    open_ended = True

    def __call__(self, step: int, max_steps: int) -> float:
        return 1.0


class WarmupCosine:
    """Linear warm-up, then half a cosine down (Loshchilov & Hutter 2016, arXiv:1608.03983).

    Step s of the warm-up has (s + 1) / warmup_steps, so the first step moves already; the step after it has the full
    rate.

    Args:
        warmup_steps: At least 0; a run shorter than this ends on the ramp.
        final: Share of the base rate that the cosine falls to, in [0, 1].
    """

    def __init__(self, warmup_steps: int, final: float) -> None:
        if warmup_steps < 0 or not 0 <= final <= 1:
            raise InvalidValue(f"warmup_steps={warmup_steps}, final={final}; give at least 0, and a share in [0, 1]")
        self.warmup_steps = warmup_steps
        self.final = final

    def __call__(self, step: int, max_steps: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / (max_steps - self.warmup_steps)
        return half_cosine(1.0, self.final, progress)


class StepDecay:
    """The rate is multiplied by a factor every so many steps.

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
