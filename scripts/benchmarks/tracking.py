"""What tracking costs: the same training with everything that goes to TensorBoard, and with nothing.

    python scripts/benchmarks/tracking.py [experiment=NAME override ...] [--steps 300] [--pairs 5]

Both kinds alternate in one process; the ratio is of the medians. What is done once (config, pictures, projector) is
measured apart, because its share shrinks with the run's length.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.report import exhibits
from ssl_runner.runs.events import final_writer
from ssl_runner.runs.tracking import Tracker
from ssl_runner.training.loop import fit
from ssl_runner.wiring import wire


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="what makes the run, as for ssl-train")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--pairs", type=int, default=5, help="of trainings, one of each kind")
    asked = parser.parse_intermixed_args()
    config, _ = validate.checked_config(Composer(conf_folder()), asked.overrides)
    whole = wire.wire(config).trainer.steps(wire.wire(config).batching)
    config["trainer"] |= {"max_epochs": None, "max_steps": asked.steps, "progress": False}
    silent = config | {"trainer": config["trainer"] | {"log_every": asked.steps, "diagnostics_every": None}}
    kinds: dict[str, list[tuple[float, float]]] = {"tracked": [], "silent": []}
    for _ in range(asked.pairs):
        for kind, wanted in (("tracked", config), ("silent", silent)):
            kinds[kind].append(measured(wanted))
    seconds = {kind: statistics.median(loop for loop, _ in runs) for kind, runs in kinds.items()}
    once = statistics.median(once for _, once in kinds["tracked"])
    share = seconds["tracked"] / seconds["silent"] - 1
    report = {
        "overrides": asked.overrides,
        "steps": asked.steps,
        "seconds": seconds,
        "cost of the loop": f"{share:.2%}",
        "seconds once a run": round(once, 3),
        "cost of a whole run's training": f"{share + once / (seconds['silent'] / asked.steps * whole):.2%}",
    }
    print(json.dumps(report, indent=2))


def measured(config: dict[str, Any]) -> tuple[float, float]:
    """Seconds of the loop, and of what is shown once."""
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


if __name__ == "__main__":
    main()
