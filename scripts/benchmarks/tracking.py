"""Seconds of training with everything that goes to TensorBoard, beside the same training with nothing.

A line every 10 steps, diagnostics every 100, pictures, projector. Both kinds alternate in one process. What is done
once a run (config, pictures, projector) is measured apart, because its share shrinks with the run's length.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .measure import apart, checked, in_turn, median_ratio
from .row import Goal, Row, Settings

STEPS = {"simclr_digits": 300, "simclr_mnist": 100}


def compared(experiment: str, steps: int, rounds: int) -> dict[str, list]:
    """Of both kinds, seconds of the loop and of what is done once, in each round; and the steps of a whole run."""
    from ssl_runner.wiring import wire

    config = checked([f"experiment={experiment}"])
    run = wire.wire(config)
    whole = run.trainer.steps(run.batching)
    config["trainer"] |= {"max_epochs": None, "max_steps": steps, "progress": False}
    silent = config | {"trainer": config["trainer"] | {"log_every": steps, "diagnostics_every": None}}
    parts = {"tracked": lambda: training(config), "silent": lambda: training(silent)}
    return in_turn(parts, rounds) | {"whole": [(whole, 0)]}


def training(config: dict[str, Any]) -> tuple[float, float]:
    """Seconds of the loop, and of what is shown once."""
    from ssl_runner.report import exhibits
    from ssl_runner.runs.events import final_writer
    from ssl_runner.runs.tracking import Tracker
    from ssl_runner.training.loop import fit
    from ssl_runner.wiring import wire

    run = wire.wire(config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Tracker(folder, 0) as tracker:
            began = time.perf_counter()
            exhibits.before(tracker.writer, run, config)
            once = time.perf_counter() - began
            began = time.perf_counter()
            fit(run, folder, tracker, None)
            loop = time.perf_counter() - began
        began = time.perf_counter()
        with final_writer(folder) as writer:
            exhibits.after(writer, run, config["trainer"]["max_steps"])
        return loop, once + time.perf_counter() - began


def rows(settings: Settings) -> Iterator[Row]:
    """Of two experiments, the loop with and without, and the whole run."""
    for experiment, steps in {"simclr_digits": 3}.items() if settings.quick else STEPS.items():
        found = apart(settings, compared, experiment, steps, settings.rounds)
        tracked, silent = ([loop for loop, _ in found[kind]] for kind in ("tracked", "silent"))
        ratio, without = median_ratio(tracked, silent), statistics.median(silent)
        own = statistics.median(tracked)
        yield Row(
            f"{experiment}, {steps} steps, with / without", own, "s", "nothing tracked", without, ratio, Goal(most=1.05)
        )
        once, whole = statistics.median(once for _, once in found["tracked"]), without * found["whole"][0][0] / steps
        yield Row(
            f"{experiment}: once a run / all its training", once, "s", "training", whole, once / whole, Goal(most=0.02)
        )
