"""Checks that training is healthy: finite numbers, an embedding that is spread out, and no lost process."""

import math
from collections.abc import Iterator, Mapping
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


def collapse(metrics: Mapping[str, float], step: int) -> str | None:
    """A message if the embedding, or that of a student or teacher, has collapsed, else None.

    Args:
        metrics: What diagnostics found: ``embedding_std`` and others by branch, such as ``teacher_std``, the standard
            deviations of embeddings over images; 1 if all directions are used.
        step: Number of steps done.
    """
    spreads = {whose: metrics[f"{whose}_std"] for whose in ("student", "teacher") if f"{whose}_std" in metrics}
    # a spread of NaN is not a collapse either
    fallen = {f"the {whose}'s embedding": spread for whose, spread in spreads.items() if spread < COLLAPSED}
    if not fallen and metrics["embedding_std"] < COLLAPSED:
        fallen = {"the embedding": metrics["embedding_std"]}
    if step < SETTLED or not fallen:
        return None
    return (
        f"{' and '.join(fallen)} {'has' if len(fallen) == 1 else 'have'} collapsed by step {step}: "
        f"{'its' if len(fallen) == 1 else 'their'} std over images is "
        f"{' and '.join(f'{spread:.3f}' for spread in fallen.values())} (1 if spread evenly), "
        "so all images look alike to the loss. Lower optimizer.lr, or choose a loss with negatives."
    )
