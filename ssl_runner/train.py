"""The entry: compose -> check -> wire -> fit -> evaluate."""

import copy
import sys
import time
from pathlib import Path
from typing import Any

from ssl_runner import commandline


def main() -> None:
    """The console command ``ssl-train``."""
    sys.exit(commandline.main(run))


def run(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train and evaluate what a checked config describes.

    Args:
        config: Plain, resolved config.
        folder: The run folder.

    Returns:
        What result.json holds.
    """
    # torch takes seconds to import, and help, completion and typos need none of it
    from rich.console import Console

    from ssl_runner import wiring
    from ssl_runner.evaluation.evaluator import evaluate
    from ssl_runner.models.saving import save_encoder
    from ssl_runner.report import console as report
    from ssl_runner.report.result import Result
    from ssl_runner.tracking import log_evaluation

    began = time.perf_counter()
    console = Console()
    run = wiring.wire(config)
    resumed, warnings = wiring.resume(config, folder, run.identity)
    for warning in warnings:
        console.print(f"[yellow]warning[/yellow]: {warning}", soft_wrap=True)
    wiring.write_config(config, folder)
    report.announce(run, folder, 0 if resumed is None else resumed["step"], console)

    result = Result(folder, run)
    if resumed is not None and result.is_finished():
        console.print(f"{folder} is finished already: there is nothing to go on with", soft_wrap=True)
        return result.content
    for evaluator in run.evaluators.values():
        evaluator.check(run.algorithm, run.splits, run.device)
    untrained = copy.deepcopy(run.algorithm) if "untrained" in config["baselines"] else None
    speed = run.trainer.fit(
        run.algorithm, run.batching, run.optimizer, run.schedule, run.seed, folder, run.identity, run.validate, resumed
    )
    metadata = {"config_hash": run.identity.config_hash, "dataset": run.splits.train.name}
    save_encoder(run.algorithm.eval_encoder(), config["model"]["encoder"], folder, metadata)
    subjects = {"": run.algorithm, "untrained": untrained, "raw_pixels": wiring.raw_pixels(run)}
    for name in ["", *config["baselines"]]:
        with console.status(f"evaluating {name.replace('_', ' ') or 'the trained encoder'}"):
            result.add(name, evaluate(run.evaluators, subjects[name], run.splits, run.device))
    content = result.finish(**speed, seconds=time.perf_counter() - began)
    log_evaluation(folder, content["steps"], result.metrics)
    report.summarise(result, console)
    report.farewell(folder, console)
    return content


if __name__ == "__main__":
    main()
