"""The training loop: step after step, with logs, diagnostics, validation and checkpoints when they are due."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssl_runner.errors import RunStopped
from ssl_runner.runtime import distributed
from ssl_runner.runtime.device import enough_memory
from ssl_runner.runtime.launch_environment import how_to_go_on
from ssl_runner.runtime.signals import Stop, stop_signals
from ssl_runner.runtime.step_context import Clock
from ssl_runner.training.checkpointing import Keeper
from ssl_runner.training.health import all_there, check_finite, collapse
from ssl_runner.training.run import Run

if TYPE_CHECKING:
    from ssl_runner.runs.tracking import Silence

Metrics = dict[str, float]


def fit(run: Run, folder: Path, tracker: "Silence", resumed: dict[str, Any] | None) -> dict[str, Any]:
    """Train to the last step; afterwards the algorithm holds the product.

    Args:
        run: What is trained, on what, how.
        folder: The run folder.
        tracker: Takes the figures.
        resumed: What `checkpoint.load` gave, to go on from.

    Returns:
        ``steps``, ``training_seconds`` (of all processes that a resumed run took, without evaluation),
        ``images_per_second``, and which checkpoint is the ``product``.

    Raises:
        RunStopped: The loss is no longer finite, the embedding has collapsed, or memory was not enough.
        ProcessLost: Another process does not answer.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint; the message says how to go on.
    """
    return Loop(run, folder, tracker, resumed).run_to_the_end()


class Loop:
    """One training, from its first step or from a checkpoint to its last step. Arguments are those of `fit`."""

    def __init__(self, run: Run, folder: Path, tracker: "Silence", resumed: dict[str, Any] | None) -> None:
        from ssl_runner.runs.tracking import Meter  # imports TensorBoard, which a mistake need not wait for

        self.run, self.trainer, self.folder, self.tracker = run, run.trainer, folder, tracker
        self.max_steps = run.trainer.steps(run.batching)
        open_ended = bool(getattr(run.schedule, "open_ended", False))
        self.keeper = Keeper(folder / "checkpoints", run.algorithm, run.optimizer, run.identity, resumed, open_ended)
        self.meter = Meter(run.batching.images_per_step)
        first = distributed.rank() == 0
        self.validate, self.watch = (run.validate, run.watch) if first else (None, None)
        self.warned_of_collapse = False

    def run_to_the_end(self) -> dict[str, Any]:
        """What `fit` gives."""
        start = self.keeper.start
        self.run.algorithm.train()
        with self.tracker.bar(start, self.max_steps, self.trainer.progress), stop_signals() as stop:
            if self.watch is not None and start == 0:
                self.tracker.scalars(0, _tagged("panel", self.watch()))
            for step in range(start, self.max_steps):
                self._pass(step, stop)
            if stop.requested:  # too late for the last step
                raise KeyboardInterrupt(f"stopped after the last step; {how_to_go_on(self.folder)}")
        seconds = self.keeper.seconds
        return {
            "steps": self.max_steps,
            "training_seconds": seconds,
            "images_per_second": self.max_steps * self.run.batching.images_per_step / max(seconds, 1e-9),
            "product": self.keeper.product(self.trainer.device),
        }

    def _pass(self, step: int, stop: Stop) -> None:
        """One step, and what is due after it."""
        trainer, done = self.trainer, step + 1
        logging = self._due(trainer.log_every, done)
        looking = self.watch is not None and self._due(trainer.panel_every, done)
        distributed.begin_step(step)
        with all_there(self.folder, step):
            metrics = self._step(step, logging)
            # read once, for all processes: a signal from here on is the next step's
            stopping = distributed.any_of(stop.requested)
        saving = self._due(trainer.checkpoint_every, done) or stopping
        self._check(metrics, done, logging, saving or looking)
        values, collapsed = self._look(done) if looking else ({}, None)
        if logging:
            values |= _tagged("train", metrics) | self.meter.lap(done - self.keeper.start)
            values["train/lr"] = self.run.optimizer.param_groups[0]["lr"]
        if self.validate is not None and trainer.evaluate_every is not None and done % trainer.evaluate_every == 0:
            values |= self._validate(self.validate, done)
        if values:
            self.tracker.scalars(done, values)
        if saving or collapsed is not None:
            self.tracker.flush()
            self.keeper.save(done)
        self.tracker.advance(done)
        if collapsed is not None:
            raise RunStopped(f"{collapsed} The checkpoint of step {done} is in {self.keeper.folder}")
        if stopping:
            raise KeyboardInterrupt(f"stopped after step {done} of {self.max_steps}; {how_to_go_on(self.folder)}")

    def _due(self, every: int | None, done: int) -> bool:
        return every is not None and (done % every == 0 or done == self.max_steps)

    def _step(self, step: int, measure: bool) -> dict[str, Tensor]:
        """Draw a batch, and take a step at the schedule's rate."""
        run = self.run
        clock = Clock(step, self.max_steps, run.seed, self.trainer.device, self.keeper.horizon)
        rate = run.schedule(step, self.max_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1.0 if group.get("constant_lr") else rate)
        with enough_memory(self._remedy()):
            with self.meter.waiting():
                batch = run.batching.batch(step)
            return self.trainer.step(run.algorithm, batch, run.optimizer, clock, measure=measure)

    def _remedy(self) -> str:
        """What to lower where memory is not enough."""
        remedy = self.run.algorithm.less_memory(self.trainer.accumulate)
        return f"a step has {self.run.batching.images_per_step:,} images; {remedy}"

    def _check(self, metrics: Mapping[str, Tensor], done: int, logging: bool, thoroughly: bool) -> None:
        """Raises RunStopped where numbers are not finite."""
        if logging or thoroughly:
            check_finite("loss", metrics["loss"], done, self.keeper.folder)
        if thoroughly:  # a finite loss can have a gradient that is not
            norm = torch.nn.utils.get_total_norm(list(self.run.algorithm.parameters()))
            check_finite("norm of the weights", norm, done, self.keeper.folder)

    def _look(self, done: int) -> tuple[Metrics, str | None]:
        """The panel's figures, and why the run must end with them; a collapse that may go on is warned of once."""
        assert self.watch is not None
        with self.meter.paused(), enough_memory("the panel is too much; set trainer.panel_every=null"):
            values = _tagged("panel", self.watch())
        collapsed = collapse(values["panel/embedding_std"], done)
        if collapsed is None or self.trainer.stop_on_collapse:
            return values, collapsed
        if not self.warned_of_collapse:
            self.tracker.warn(collapsed)
        self.warned_of_collapse = True
        return values, None

    def _validate(self, validate: Callable[[], Metrics], done: int) -> Metrics:
        """Scores on validation; the weights are kept if they are the best so far."""
        assert self.trainer.select is not None
        with self.keeper.paused(), self.meter.paused():
            scores = validate()
            self.keeper.keep_best(scores[self.trainer.select], done)
        return _tagged("eval/validation", scores)


def _tagged(prefix: str, values: Mapping[str, Tensor | float]) -> Metrics:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}
