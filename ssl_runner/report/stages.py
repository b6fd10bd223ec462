"""What a person is shown before, after and instead of a run."""

from typing import Any

from ssl_runner.evaluation.evaluator import merits
from ssl_runner.report import console as tables
from ssl_runner.report import exhibits, verdict
from ssl_runner.report.hparams import log_final_metrics
from ssl_runner.report.preflight import announce
from ssl_runner.runs.events import final_writer
from ssl_runner.runs.tracking import Silence, Tracker
from ssl_runner.runtime import process_group
from ssl_runner.runtime.console import Console
from ssl_runner.training.run import Run
from ssl_runner.training.session import Session


def before(session: Session, tracker: Silence) -> None:
    """What the run is about to do; in TensorBoard the config, and what the network is given to see."""
    if session.result is None:
        return
    announce(session.run, session.folder, session.start, session.console)
    if session.resumed is None and isinstance(tracker, Tracker):
        exhibits.before(tracker.writer, session.run, session.config)


def after(session: Session) -> None:
    """In TensorBoard the scores and what the trained network makes of its data; the verdict in words."""
    result = session.result
    if result is None:
        return
    steps = session.speed["steps"]
    with final_writer(session.folder) as writer:
        times = {f"time/{name}": value for name, value in result.times.items()}
        scores = {name: result.metrics[name] for name in merits(result.metrics)}
        log_final_metrics(writer, scores | times, steps)
        exhibits.after(writer, session.run, steps)
    if said := verdict.sentences(result.metrics, result.content["protocols"]):
        result.content["verdict"] = said


def conclude(session: Session) -> dict[str, Any]:
    """The tables, and where the run is; gives the content of result.json."""
    result, console = session.result, session.console
    if result is None:
        return {}
    if session.finished:
        console.print(f"{session.folder} is finished already: there is nothing to go on with", soft_wrap=True)
        return result.content
    tables.summarise(result, console)
    tables.judge(result.content, console)
    tables.farewell(session.folder, console)
    return result.content


def rehearse(run: Run) -> None:
    """What the run would do, and one step of it; of several processes, number 0 does."""
    first = process_group.rank() == 0
    process_group.shutdown()
    if not first:
        return
    console = Console()
    announce(run, None, 0, console)
    with run.trainer.process_settings():
        seconds, metrics = run.one_step()
    figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    console.tell("one step", f"{seconds:.2f} s, the first being slow: {figures}")
