"""Whether training is still sound: its numbers finite, its embedding spread out."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from ssl_runner.errors import ProcessLost, RunStopped
from ssl_runner.evaluation.diagnostics import COLLAPSED, SETTLED
from ssl_runner.runtime.launch_environment import how_to_go_on
from ssl_runner.training.checkpoint import LAST


@contextmanager
def report_lost_process(folder: Path, step: int) -> Iterator[None]:
    """Inside, the loss of another process is told with what is left of the run.

    Raises:
        ProcessLost: A process did not answer in the step after so many.
    """
    try:
        yield
    except ProcessLost as error:
        left = f"The last good checkpoint is in {folder / 'checkpoints'}; {how_to_go_on(folder)}"
        nothing = "There was no checkpoint yet: start it again"
        remedy = left if (folder / "checkpoints" / LAST).exists() else nothing
        raise ProcessLost(error.reason, f" at step {step + 1}", remedy) from None


def check_finite(name: str, value: Tensor, step: int, checkpoints: Path) -> None:
    """Raises RunStopped for a figure that is not finite after so many steps; waits for the device."""
    if not math.isfinite(float(value)):
        kept = f"The last good checkpoint is in {checkpoints}"
        raise RunStopped(
            f"the {name} is {float(value)} at step {step}; the likely cause is a learning rate that is too "
            "high: lower optimizer.lr or set trainer.gradient_clip_norm=1. "
            + (kept if (checkpoints / LAST).exists() else "There was no checkpoint yet")
        )


def collapse(spread: float, step: int) -> str | None:
    """What to say of an embedding of this standard deviation over images (1 where all directions are used)."""
    if step < SETTLED or not spread < COLLAPSED:  # nor is a spread that is not a number a collapse
        return None
    return (
        f"the embedding has collapsed by step {step}: its std over images is {spread:.3f} of 1, "
        "so all images look alike to the loss. Lower optimizer.lr, or choose a loss with negatives."
    )
