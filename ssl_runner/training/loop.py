"""The training loop of every algorithm: steps, with logging, diagnostics, validation and checkpoints when they are due.

Three evaluators train their own classifier or network, each in a loop of a few lines without logging, checkpoints or
resuming: `SourceClassifier`, `FromScratch` and `FineTuning` in ssl_runner/evaluation.
"""

import functools
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ssl_runner.errors import RunStopped
from ssl_runner.optim import rates
from ssl_runner.runtime import collectives, process_group
from ssl_runner.runtime.device import enough_memory
from ssl_runner.runtime.launch_environment import how_to_go_on
from ssl_runner.runtime.signals import Stop, stop_signals
from ssl_runner.runtime.spans import span
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training.ahead import Ahead
from ssl_runner.training.checkpointing import Checkpointing
from ssl_runner.training.health import check_finite, collapse, report_lost_process
from ssl_runner.training.profiling import Profile
from ssl_runner.training.run import Run
from ssl_runner.training.trainer import Gradients

if TYPE_CHECKING:
    from ssl_runner.runs.tracking import Silence

Metrics = dict[str, float]


def fit(run: Run, folder: Path, tracker: "Silence", resumed: dict[str, Any] | None) -> dict[str, Any]:
    """Train to the last step; afterwards the algorithm holds the selected weights.

    Args:
        run: The objects of the run.
        folder: The run folder.
        tracker: Logs the metrics.
        resumed: The state that `checkpoint.load` returned, or None for a new run.

    Returns:
        ``steps``, ``training_seconds`` (including the time before the run was resumed, without evaluation),
        ``images_per_second``, and the ``selected_checkpoint``.

    Raises:
        RunStopped: The loss is no longer finite, the embedding has collapsed, or memory ran out.
        ProcessLost: Another process does not answer.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint was written; the message says how to resume.
    """
    return Loop(run, folder, tracker, resumed).run_to_the_end()


class Loop:
    """Trains from the first step, or from a checkpoint, to the last step. The arguments are those of `fit`."""

    def __init__(self, run: Run, folder: Path, tracker: "Silence", resumed: dict[str, Any] | None) -> None:
        from ssl_runner.runs.tracking import Meter

        self.run, self.trainer, self.folder, self.tracker = run, run.trainer, folder, tracker
        self.max_steps = run.trainer.steps(run.batching)
        open_ended = bool(getattr(run.schedule, "open_ended", False))
        self.checkpointing = Checkpointing(
            folder / "checkpoints", run.trained, run.algorithm, run.optimizer, run.identity, resumed, open_ended
        )
        self.ahead = Ahead(run.batching, run.trainer.device, self.max_steps)
        self.gradients: Gradients | None = self._gradients()
        profile = functools.partial(Profile, folder, run.trainer, functools.partial(tracker.tell, "profile"))
        self.profile = profile() if run.trainer.profile else None
        self.meter = Meter(run.batching.images_per_step)
        first = process_group.rank() == 0
        self.validate, self.watch = (run.validate, run.watch) if first else (None, None)
        self.warned_of_collapse = False

    def run_to_the_end(self) -> dict[str, Any]:
        """Train to the last step and return what `fit` returns."""
        start = self.checkpointing.start
        self.run.trained.train()
        with self.tracker.bar(start, self.max_steps, self.trainer.progress), stop_signals() as stop:
            if self.trainer.diagnostics_every is not None and start == 0:
                with self.run.whole():
                    self.tracker.scalars(0, {} if self.watch is None else _tagged("train/diagnostics", self.watch()))
            for step in range(start, self.max_steps):
                with report_lost_process(self.folder, step):
                    self._pass(step, stop)
            if self.profile is not None:
                self.profile.advance(self.max_steps)
                self.profile.end()
            if stop.requested:  # the signal came too late for the last step
                raise KeyboardInterrupt(f"stopped after the last step; {how_to_go_on(self.folder)}")
        seconds = self.checkpointing.seconds
        self.gradients = None  # a recording keeps the memory of a step
        self.run.gather()
        return {
            "steps": self.max_steps,
            "training_seconds": seconds,
            "images_per_second": self.max_steps * self.run.batching.images_per_step / max(seconds, 1e-9),
            "selected_checkpoint": self.checkpointing.load_selected(self.trainer.device),
        }

    def _pass(self, step: int, stop: Stop) -> None:
        """Take one step, then log, validate and save as due."""
        trainer, done = self.trainer, step + 1
        logging = self._due(trainer.log_every, done)
        looking, validating = self._due(trainer.diagnostics_every, done), self._validating(done)
        process_group.begin_step(step)
        if self.profile is not None:
            self.profile.advance(step)
        metrics = self._step(step, logging)
        # read once, for all processes: a later signal counts for the next step
        stopping = process_group.any_of(stop.requested)
        saving = self._due(trainer.checkpoint_every, done) or stopping
        self._check(metrics, done, logging, saving or looking)
        with self.run.whole() if looking or validating else nullcontext():
            values, collapsed = self._look(done) if looking else ({}, None)
            scores = self._validate(done) if validating else {}
        if logging:
            values |= _tagged("train", metrics) | self.meter.lap(done - self.checkpointing.start)
            values |= _tagged("train", rates.figures(self.run.optimizer, self.run.schedule))
        if values := values | scores:
            with span("logging"):
                self.tracker.scalars(done, values)
        if saving or collapsed is not None:
            self.tracker.flush()
            self.checkpointing.save(done)
        self.tracker.advance(done)
        if collapsed is not None:
            raise RunStopped(f"{collapsed} The checkpoint of step {done} is in {self.checkpointing.folder}")
        if stopping:
            raise KeyboardInterrupt(f"stopped after step {done} of {self.max_steps}; {how_to_go_on(self.folder)}")

    def _due(self, every: int | None, done: int) -> bool:
        return every is not None and (done % every == 0 or done == self.max_steps)

    def _validating(self, done: int) -> bool:
        every = self.trainer.evaluate_every
        if not isinstance(every, int):  # `last`, or null
            return every is not None and done == self.max_steps
        return done % every == 0

    def _step(self, step: int, measure: bool) -> dict[str, Tensor]:
        """Draw a batch and take a step at the scheduled learning rate."""
        run = self.run
        context = StepContext(step, self.max_steps, run.seed, self.trainer.device, self.checkpointing.horizon)
        rates.follow(run.optimizer, run.schedule, step, self.max_steps)
        with enough_memory(self._remedy()):
            with self.meter.waiting(), span("data"):
                batch = self.ahead.batch(step)
            metrics = self.trainer.step(run.trained, batch, run.optimizer, context, measure, self.gradients)
            with self.meter.waiting(), span("data"):
                self.ahead.make(step + 1)
            return metrics

    def _gradients(self) -> Gradients:
        """The trainer's way to compute gradients, compiled and recorded as configured."""
        run, compute, tell = self.run, self.trainer.gradients, functools.partial(self.tracker.tell, "compiler")
        if self.trainer.compiles(run.algorithm.batch_type, self.max_steps):
            from ssl_runner.training.compiling import Compiled, CompiledNetworks

            run.batching.compile(lambda augmentation: Compiled(augmentation, "an augmentation", tell))
            compute = CompiledNetworks(compute, run.algorithm, tell)
        if self.trainer.records:
            from ssl_runner.training.recording import Recorder

            compute = Recorder(compute, tell)
        return compute

    def _remedy(self) -> str:
        """What to lower if memory runs out."""
        remedy = self.run.algorithm.less_memory(self.trainer.accumulate_grad_batches)
        return f"a step has {self.run.batching.images_per_step:,} images; {remedy}"

    def _check(self, metrics: Mapping[str, Tensor], done: int, logging: bool, thoroughly: bool) -> None:
        """Raises RunStopped if the loss or the weights are not finite."""
        if logging or thoroughly:
            check_finite("loss", metrics["loss"], done, self.checkpointing.folder)
        if thoroughly:  # a finite loss can have a gradient that is not finite
            norm = collectives.total_norm(list(self.run.trained.parameters()))
            check_finite("norm of the weights", norm, done, self.checkpointing.folder)

    def _look(self, done: int) -> tuple[Metrics, str | None]:
        """The diagnostics, and the reason to stop the run or None. Without stop_on_collapse, a collapse warns once."""
        values, collapsed = dict[str, float](), None
        if self.watch is not None:
            with self.meter.paused(), enough_memory("diagnostics need too much; set trainer.diagnostics_every=null"):
                found = self.watch()
            values, collapsed = _tagged("train/diagnostics", found), collapse(found, done)
        if self.trainer.stop_on_collapse:
            return values, process_group.broadcast(collapsed)  # all processes save and stop together
        if collapsed is not None and not self.warned_of_collapse:
            self.tracker.warn(collapsed)
            self.warned_of_collapse = True
        return values, None

    def _validate(self, done: int) -> Metrics:
        """The validation scores; the weights are saved if they are the best so far."""
        if self.validate is None:  # process 0 does it
            return {}
        assert self.trainer.select is not None
        with self.checkpointing.paused(), self.meter.paused():
            scores = self.validate()
            self.checkpointing.keep_best(scores[self.trainer.select], done)
        return _tagged("eval/validation", scores)


def _tagged(prefix: str, values: Mapping[str, Tensor | float]) -> Metrics:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}
