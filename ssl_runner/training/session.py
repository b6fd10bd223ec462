"""A run in its folder: new or resumed, trained, evaluated, and its result written."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.schema import BASELINES, Config
from ssl_runner.errors import ConfigError
from ssl_runner.evaluation.evaluator import asked_again, evaluate, write_manifests
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.runs import provenance, run_folder
from ssl_runner.runs.result import Result
from ssl_runner.runs.tracking import Silence, Tracker
from ssl_runner.runtime import process_group
from ssl_runner.runtime.console import Console
from ssl_runner.runtime.device import enough_memory
from ssl_runner.runtime.launch_environment import how_to_go_on
from ssl_runner.runtime.streams import logged_in
from ssl_runner.training import checkpoint, loop
from ssl_runner.training.run import Run


class Session:
    """The work of one process in a run folder. Process 0 evaluates and writes; any others only train.

    Attributes:
        config: The checked config.
        folder: The run folder.
        run: The run's objects.
        console: For messages to the user.
        resumed: The state that `checkpoint.load` returned, or None for a new run.
        finished: Whether the folder already holds the complete result.
        result: The content of result.json so far; None on processes other than 0.
        speed: The value that `loop.fit` returned.
    """

    def __init__(self, config: Config, folder: Path, run: Run, result: Result | None) -> None:
        self.config, self.folder, self.run, self.result = config, folder, run, result
        self.console = Console()
        self.resumed: dict[str, Any] | None = None
        self.finished = False
        self.speed: dict[str, Any] = {}
        self.untrained: Algorithm | None = None

    @property
    def start(self) -> int:
        """Steps done before this session."""
        return 0 if self.resumed is None else self.resumed["step"]

    @contextmanager
    def tracking(self) -> Iterator[Silence]:
        """Inside, process 0 logs the steps."""
        if self.result is None:
            yield Silence()
            return
        write_manifests(self.run.evaluators, self.folder, self.run.splits)
        with Tracker(self.folder, self.start, self.result.reach) as tracker:
            yield tracker

    def fit(self, tracker: Silence) -> None:
        """Train to the last step and close the process group; process 0 then writes the encoder."""
        if self.result is not None and "untrained" in self.config["baselines"]:
            self.untrained = self.run.untrained()
        self.speed = loop.fit(self.run, self.folder, tracker, self.resumed)
        process_group.shutdown()
        if self.result is not None:
            self.run.save(self.config["model"]["encoder"], self.folder)

    def evaluate(self) -> None:
        """Score the trained algorithm and the baselines, on process 0 only."""
        if self.result is None:
            return
        run, remedy = self.run, f"evaluation ran out of memory; free some, then {how_to_go_on(self.folder)}"
        for name in ["", *self.config["baselines"]]:
            activity = f"evaluating {BASELINES[name] if name else 'the trained encoder'}"
            with self.console.working(activity), enough_memory(remedy):
                evaluators = asked_again(run.evaluators) if name else run.evaluators
                self.result.add(name, evaluate(evaluators, self._judged(name), run.splits, run.device))

    def _judged(self, name: str) -> Algorithm:
        """The trained algorithm for an empty name, or the baseline of that name."""
        if name == "raw_pixels":
            return RawPixels(self.run.splits.train.images.shape[1:]).to(self.run.device)
        if name == "untrained":
            assert self.untrained is not None
            return self.untrained.to(self.run.device)
        return self.run.algorithm


@contextmanager
def opened(config: Config, folder: Path | None, run: Run) -> Iterator[Session]:
    """Open the run folder for this run alone; result.json records how the run ends.

    Args:
        config: The plain, resolved config.
        folder: The run folder, known to process 0.
        run: The objects wired from the config.

    Raises:
        FolderInUse: Another process is using the folder.
        ResumeError: The run cannot be resumed, or the folder already holds a run.
        FolderGone: The folder was deleted or moved in the meantime.
    """
    began = time.perf_counter()
    folder = process_group.broadcast(folder)
    assert folder is not None, "process 0 has one"
    run_folder.refuse_name(folder)
    with logged_in(folder), run.trainer.process_settings():
        if process_group.rank() > 0:
            session = Session(config, folder, run, None)
            session.resumed, session.finished = process_group.broadcast((None, False))
            yield session
            process_group.shutdown()
            return
        with run_folder.alone_in(folder):
            session = _first(config, folder, run)
            result = session.result
            assert result is not None
            if session.finished:
                process_group.shutdown()
                yield session
                return
            run_folder.write_config(config, folder)
            provenance.write_diff(folder)
            with result.to_the_end(), run_folder.kept(folder, lambda: result.step):
                yield session
                result.finish(**session.speed, seconds=time.perf_counter() - began)


def _first(config: Config, folder: Path, run: Run) -> Session:
    """Process 0's session; it sends the checkpoint to resume from to all processes."""
    session = Session(config, folder, run, Result(folder, run.description()))
    assert session.result is not None
    session.resumed, warnings = checkpoint.resume_point(config, folder, run.identity)
    for warning in warnings:
        session.console.warn(warning)
    if session.resumed is None and run.begun is not None and run.begun.lacking is not None:
        raise ConfigError([run.begun.lacking])
    if session.resumed is not None:
        session.result.take_up(session.resumed, run.trainer.steps(run.batching))
        session.finished = session.result.is_finished()
    process_group.broadcast((session.resumed, session.finished))
    return session
