"""Where a run is: what schedules and draws depend on."""

from dataclasses import dataclass, field

import torch

from ssl_runner.runtime import randomness


@dataclass
class Horizon:
    """Whether anything of a run hangs on where it ends; if nothing does, it may be given another end.

    Attributes:
        matters: Set once `StepContext.progress` was read, or from the start by a schedule that falls to its end.
    """

    matters: bool = False


@dataclass(frozen=True)
class StepContext:
    """The time of one step.

    Attributes:
        step: Steps done before this one, in [0, max_steps).
        max_steps: Steps of the whole run.
        seed: The run's seed.
        device: Where draws are made.
        horizon: Learns that the end of the run matters.
    """

    step: int
    max_steps: int
    seed: int
    device: torch.device
    horizon: Horizon = field(default_factory=Horizon)

    @property
    def progress(self) -> float:
        """In [0, 1): 0 at the first step."""
        self.horizon.matters = True
        return self.step / self.max_steps

    def generator(self, stream: str) -> torch.Generator:
        """This step's own generator for a named purpose."""
        return randomness.generator(self.seed, stream, self.step, self.device)
