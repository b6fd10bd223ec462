"""Checks that training is healthy: finite numbers, an embedding that is spread out, and no lost process."""

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
    """Inside, if another process is lost, the error says at which step and where the last checkpoint is.

    Args:
        folder: The run folder.
        step: Number of steps done before this one.

    Raises:
        ProcessLost: Another process did not answer.
    """
    try:
        yield
    except ProcessLost as error:
        left = f"The last good checkpoint is in {folder / 'checkpoints'}; {how_to_go_on(folder)}"
        nothing = "There was no checkpoint yet: start again"
        remedy = left if (folder / "checkpoints" / LAST).exists() else nothing
        raise ProcessLost(error.reason, f" at step {step + 1}", remedy) from None


def check_finite(name: str, value: Tensor, step: int, checkpoints: Path) -> None:
    """Raises RunStopped if the value is not finite after ``step`` steps; waits for the device."""
    if not math.isfinite(float(value)):
        kept = f"The last good checkpoint is in {checkpoints}"
        raise RunStopped(
            f"the {name} is {float(value)} at step {step}; the likely cause is a learning rate that is too "
            "high: lower optimizer.lr or set trainer.gradient_clip_norm=1. "
            + (kept if (checkpoints / LAST).exists() else "There was no checkpoint yet")
        )


def collapse(spread: float, step: int) -> str | None:
    """A message if the embedding has collapsed, else None.

    Args:
        spread: Standard deviation of the embedding over images; 1 if all directions are used.
        step: Number of steps done.
    """
    if step < SETTLED or not spread < COLLAPSED:  # a spread of NaN is not a collapse either
        return None
    return (
        f"the embedding has collapsed by step {step}: its std over images is {spread:.3f} (1 if spread evenly), "
        "so all images look alike to the loss. Lower optimizer.lr, or choose a loss with negatives."
    )
