"""The output before a run, after it, and for a dry run."""

from typing import Any

from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.report import console as tables
from ssl_runner.report import exhibits, verdict
from ssl_runner.report.few_shot_table import log_few_shot
from ssl_runner.report.hparams import log_final_metrics
from ssl_runner.report.preflight import announce
from ssl_runner.runs.events import final_writer
from ssl_runner.runs.tracking import Silence, Tracker
from ssl_runner.runtime import process_group
from ssl_runner.runtime.console import Console
from ssl_runner.sweeps.sweep import columns_of
from ssl_runner.training.run import Run
from ssl_runner.training.session import Session


def before(session: Session, tracker: Silence) -> None:
    """Announce the run; in TensorBoard, log the config and the network's input."""
    if session.result is None:
        return
    announce(session.run, session.folder, session.start, session.console)
    if session.resumed is None and isinstance(tracker, Tracker):
        exhibits.before(tracker.writer, session.run, session.config, columns_of(session.folder))


def after(session: Session) -> None:
    """Log the scores and the trained network's output in TensorBoard, and add the verdict in words to the result."""
    result = session.result
    if result is None:
        return
    steps = session.speed["steps"]
    with final_writer(session.folder) as writer:
        log_final_metrics(writer, result.metrics, steps)
        log_few_shot(writer, result.metrics, steps)
        exhibits.after(writer, session.run, steps)
    if sentences := verdict.sentences(result.metrics, result.content["protocols"]):
        result.content["verdict"] = sentences
    images = session.run.splits.train.images
    if isinstance(images, StoredImages) and images.left is not None:
        result.content["dataset"]["decoded_by_pillow"] = images.left.counts()
        session.console.tell("nvJPEG", str(images.left))


def conclude(session: Session) -> dict[str, Any]:
    """Print the tables and the run folder; returns the content of result.json."""
    result, console = session.result, session.console
    if result is None:
        return {}
    if session.finished:
        console.print(f"{session.folder} is already finished; there is nothing to resume", soft_wrap=True)
        return result.content
    tables.summarise(result, console)
    tables.judge(result.content, console)
    tables.farewell(session.folder, console)
    return result.content


def rehearse(run: Run) -> None:
    """Announce the run and take one step; with several processes, only process 0 does."""
    first = process_group.rank() == 0
    process_group.shutdown()
    if not first:
        return
    console = Console()
    announce(run, None, 0, console)
    with run.trainer.process_settings():
        seconds, metrics = run.one_step()
    figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    console.tell("one step", f"{seconds:.2f} s (the first step is slow): {figures}")
