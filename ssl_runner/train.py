"""The entry: compose -> check -> wire -> fit -> evaluate."""

import copy
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_runner.cli import command_line
from ssl_runner.cli.app import Program
from ssl_runner.runtime import launch_environment

if TYPE_CHECKING:
    from ssl_runner.runs.result import Result
    from ssl_runner.runtime.console import Console
    from ssl_runner.training.run import Run


def main() -> None:
    """The console command ``ssl-train``."""
    launch_environment.in_utf8()
    sys.exit(command_line.main(Program(prepare, run, rehearse)))


def prepare(config: dict[str, Any]) -> "Run":
    """The objects of a checked config, before anything is written; raises ConfigError or DataError."""
    # torch takes seconds to import, and help, completion and typos need none of it
    from ssl_runner.runtime import distributed
    from ssl_runner.wiring import wire

    distributed.join(config["trainer"].get("timeout", distributed.TIMEOUT))
    with distributed.first():
        return wire.prepare(config)


def run(config: dict[str, Any], folder: Path | None, wired: "Run | None" = None) -> dict[str, Any]:
    """Train and evaluate what a checked config describes.

    Of several processes all train, and number 0 alone writes and evaluates.

    Args:
        config: Plain, resolved config.
        folder: The run folder, known to process 0.
        wired: What `prepare` made of the config, if it was called before.

    Returns:
        What result.json holds; nothing on other processes than number 0.
    """
    from ssl_runner.report import console as report
    from ssl_runner.report import verdict
    from ssl_runner.runs import provenance, run_folder
    from ssl_runner.runs.result import Result
    from ssl_runner.runtime import distributed
    from ssl_runner.runtime.console import Console
    from ssl_runner.runtime.streams import logged_in
    from ssl_runner.training import checkpoint

    began = time.perf_counter()
    console = Console()
    run = prepare(config) if wired is None else wired
    folder = distributed.from_first(folder)
    assert folder is not None, "process 0 has one"
    run_folder.refuse_name(folder)
    with logged_in(folder):
        if distributed.rank() > 0:
            _train_along(run, folder)
            return {}
        with run_folder.alone_in(folder):
            resumed, warnings = checkpoint.resume_point(config, folder, run.identity)
            for warning in warnings:
                console.warn(warning)
            result = Result(folder, run.description())
            if resumed is not None:
                result.take_up(resumed, run.trainer.steps(run.batching))
            finished = resumed is not None and result.is_finished()
            distributed.from_first((resumed, finished))
            if finished:
                distributed.leave()
                console.print(f"{folder} is finished already: there is nothing to go on with", soft_wrap=True)
                return result.content
            run_folder.write_config(config, folder)
            provenance.write_diff(folder)
            with result.to_the_end(), run_folder.kept(folder, lambda: result.step):
                speed = _train_and_evaluate(config, folder, run, resumed, result, console)
                said = verdict.sentences(result.metrics, result.content["protocols"])
                found = {"verdict": said} if said else {}
                content = result.finish(**speed, **found, seconds=time.perf_counter() - began)
        report.summarise(result, console)
        report.judge(content, console)
        report.farewell(folder, console)
    return content


def _train_and_evaluate(
    config: dict[str, Any],
    folder: Path,
    run: "Run",
    resumed: dict[str, Any] | None,
    result: "Result",
    console: "Console",
) -> dict[str, Any]:
    """All that process 0 does in a run folder which it alone holds. Gives what `Trainer.fit` does."""
    from rich.text import Text

    from ssl_runner.evaluation.evaluator import asked_again, evaluate, merits
    from ssl_runner.evaluation.few_shot import FewShot
    from ssl_runner.evaluation.raw_pixels import RawPixels
    from ssl_runner.evaluation.verdict import Verdict
    from ssl_runner.report import exhibits
    from ssl_runner.report.hparams import log_final_metrics
    from ssl_runner.report.preflight import announce
    from ssl_runner.runs.events import final_writer
    from ssl_runner.runs.tracking import Tracker
    from ssl_runner.runtime import distributed
    from ssl_runner.runtime.device import enough_memory
    from ssl_runner.runtime.launch_environment import how_to_go_on

    start = result.step
    for evaluator in run.evaluators.values():
        if isinstance(evaluator, FewShot | Verdict):
            evaluator.write_manifest(folder, run.splits)
    announce(run, folder, start, console)
    untrained = copy.deepcopy(run.algorithm) if "untrained" in config["baselines"] else None
    with Tracker(folder, start, result.reach) as tracker:
        if resumed is None:
            exhibits.before(tracker.writer, run, config)
        speed = run.fit(folder, tracker, resumed)
    distributed.leave()
    run.save(config["model"]["encoder"], folder)
    pixels = RawPixels(run.splits.train.images.shape[1:]).to(run.device)
    subjects = {"": run.algorithm, "untrained": untrained, "raw_pixels": pixels}
    too_much = f"evaluation takes more than there is; with more at hand, {how_to_go_on(folder)}"
    for name in ["", *config["baselines"]]:
        activity = f"evaluating {name.replace('_', ' ') or 'the trained encoder'}"
        with console.status(Text(activity)), enough_memory(too_much):
            evaluators = asked_again(run.evaluators) if name else run.evaluators
            result.add(name, evaluate(evaluators, subjects[name], run.splits, run.device))
    with final_writer(folder) as writer:
        times = {f"time/{name}": value for name, value in result.times.items()}
        scores = {name: result.metrics[name] for name in merits(result.metrics)}
        log_final_metrics(writer, scores | times, speed["steps"])
        exhibits.after(writer, run, speed["steps"])
    return speed


def _train_along(run: "Run", folder: Path) -> None:
    """The part of a process beside number 0."""
    from ssl_runner.runs.tracking import Silence
    from ssl_runner.runtime import distributed

    resumed, finished = distributed.from_first((None, False))
    if not finished:
        run.fit(folder, Silence(), resumed)
    distributed.leave()


def rehearse(wired: "Run") -> None:
    """Say what a run would do, do one step of it and say how long all would take; nothing is written."""
    from ssl_runner.report.preflight import announce
    from ssl_runner.runtime import distributed
    from ssl_runner.runtime.console import Console

    first = distributed.rank() == 0
    distributed.leave()
    if not first:
        return
    console = Console()
    announce(wired, None, 0, console)
    seconds, metrics = wired.one_step()
    figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    console.tell("one step", f"{seconds:.2f} s, the first being slow: {figures}")


if __name__ == "__main__":
    main()
