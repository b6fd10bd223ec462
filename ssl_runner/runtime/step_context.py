"""The position in a run, on which schedules and random draws depend."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssl_runner.runtime import randomness


@dataclass
class Horizon:
    """Whether anything in a run depends on where it ends; if not, the end may be changed later.

    Attributes:
        matters: True after `StepContext.progress` was read, or from the start if the schedule depends on the end.
    """

    matters: bool = False


@dataclass(frozen=True)
class StepContext:
    """The position and random draws of one step.

    A training step asks `reached`, `follow` and `generator`, which a recorded step can renew
    (`ssl_runner.training.recording`); one that reads its position itself is not recorded.

    Attributes:
        step: Steps done before this one, in [0, max_steps).
        max_steps: Total number of steps of the run.
        seed: The run's seed.
        device: The device of the random draws.
        horizon: Records that the end of the run matters.
    """

    step: int
    max_steps: int
    seed: int
    device: torch.device
    horizon: Horizon = field(default_factory=Horizon)

    @property
    def progress(self) -> float:
        """The fraction of the run that is done, in [0, 1); 0 at the first step."""
        self.horizon.matters = True
        return self.step / self.max_steps

    def reached(self, share: float) -> bool:
        """Whether this share of the run, in [0, 1], is done."""
        return self.progress >= share

    def follow(self, schedule: Callable[[float], float]) -> float | Tensor:
        """A schedule's value at this step, given `progress`; as a scalar tensor in a recorded step."""
        return schedule(self.progress)

    def generator(self, stream: str) -> torch.Generator:
        """This step's own generator for a named purpose."""
        return randomness.generator(self.seed, stream, self.step, self.device)
