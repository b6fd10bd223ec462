"""Where a run is: what schedules and draws depend on."""

from dataclasses import dataclass

import torch

from ssl_runner import randomness


@dataclass(frozen=True)
class Clock:
    """The time of one step.

    Attributes:
        step: Steps done before this one, in [0, max_steps).
        max_steps: Steps of the whole run.
        seed: The run's seed.
        device: Where draws are made.
    """

    step: int
    max_steps: int
    seed: int
    device: torch.device

    @property
    def progress(self) -> float:
        """In [0, 1): 0 at the first step."""
        return self.step / self.max_steps

    def generator(self, stream: str) -> torch.Generator:
        """This step's own generator for a named purpose."""
        return randomness.generator(self.seed, stream, self.step, self.device)
