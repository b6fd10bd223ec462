"""The only training loop."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batching.batching import Batching
from ssl_runner.errors import InvalidValue, RunStopped
from ssl_runner.optim.schedules import Schedule
from ssl_runner.runtime import distributed, randomness
from ssl_runner.runtime.device import choose_device, enough_memory
from ssl_runner.runtime.launch_environment import how_to_go_on
from ssl_runner.runtime.signals import stop_signals
from ssl_runner.runtime.step_context import Clock
from ssl_runner.training import checkpoint
from ssl_runner.training.checkpointing import Keeper
from ssl_runner.training.health import all_there, check_finite, collapse

if TYPE_CHECKING:
    from ssl_runner.runs.tracking import Meter, Silence

Metrics = dict[str, float]

MOST_THREADS = 1024


class Trainer:
    """Steps, device, precision, clipping, accumulation, checkpoints and the cadence of evaluation.

    Args:
        max_steps: Optimizer steps, or null.
        max_epochs: Passes over the training set, or null; exactly one of the two is given.
        device: ``auto`` takes CUDA, then Apple's MPS, then the CPU.
        precision: ``bfloat16`` runs the forward pass under autocast.
        threads: CPU threads, null for torch's choice.
        channels_last: Keep weights and maps in the memory format that convolutions run fastest in.
        keep_pages: Make the allocator keep freed memory (`ssl_runner.runtime.allocator`).
        cudnn_benchmark: On CUDA, time cuDNN's algorithms for each shape and take the fastest: quicker where shapes
            repeat, and another run may take another algorithm, so that the last bits differ.
        gradient_clip: Largest norm of the gradient, or null.
        accumulate: Pieces a batch is cut into, each with its own backward pass; weighted by size, so the gradient is
            that of the whole where nothing spans it (MAML). Batch normalisation over a batch sees its pieces.
        log_every: Steps between two points in the logs.
        checkpoint_every: Steps between two checkpoints; the last step always has one.
        panel_every: Steps between two looks at the panel (`ssl_runner.evaluation.panel`), or null for none.
        stop_on_collapse: Whether a collapsed embedding ends the run, after a checkpoint; else it is a warning.
        evaluate_every: Steps between evaluations on validation, or null for none.
        select: Metric whose best value on validation chooses the product (best.pt), or null: the last step is.
        progress: Whether to draw a progress bar.
        timeout: Of several processes, seconds to wait for one that does not answer. Runs of earlier versions have none.
    """

    def __init__(
        self,
        max_steps: int | None,
        max_epochs: int | None,
        device: str,
        precision: Literal["float32", "bfloat16"],
        threads: int | None,
        channels_last: bool,
        keep_pages: bool,
        cudnn_benchmark: bool,
        gradient_clip: float | None,
        accumulate: int,
        log_every: int,
        checkpoint_every: int,
        panel_every: int | None,
        stop_on_collapse: bool,
        evaluate_every: int | None,
        select: str | None,
        progress: bool,
        timeout: float = distributed.TIMEOUT,
    ) -> None:
        if (max_steps is None) == (max_epochs is None):
            raise InvalidValue(
                f"max_steps={max_steps}, max_epochs={max_epochs}; give exactly one and set the other to null"
            )
        counts = {"max_steps": max_steps, "max_epochs": max_epochs, "accumulate": accumulate, "log_every": log_every}
        counts |= {"checkpoint_every": checkpoint_every, "evaluate_every": evaluate_every, "threads": threads}
        counts |= {"panel_every": panel_every}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise InvalidValue(f"{name}={value}; it must be at least 1")
        if threads is not None and threads > MOST_THREADS:
            raise InvalidValue(f"threads={threads}; give at most {MOST_THREADS}, or null for torch's choice")
        if precision not in ("float32", "bfloat16"):
            raise InvalidValue(f"precision={precision!r} is not one of float32, bfloat16")
        if gradient_clip is not None and not gradient_clip > 0:
            raise InvalidValue(f"gradient_clip={gradient_clip}; give a norm above 0, or null")
        if not timeout > 0:
            raise InvalidValue(f"timeout={timeout}; give seconds above 0")
        if (select is None) != (evaluate_every is None):
            raise InvalidValue(f"select={select}, evaluate_every={evaluate_every}; selection needs both, or both null")
        if stop_on_collapse and panel_every is None:
            raise InvalidValue("stop_on_collapse=true, but panel_every=null: nothing looks; set panel_every, say 100")
        self.max_steps, self.max_epochs = max_steps, max_epochs
        self.device = choose_device(device)
        if precision == "bfloat16" and self.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            warnings.warn("precision=bfloat16 is about eight times slower on this CPU than float32", stacklevel=2)
        self.precision, self.threads = precision, threads
        self.channels_last, self.keep_pages = channels_last, keep_pages
        self.cudnn_benchmark = cudnn_benchmark
        self.gradient_clip, self.accumulate = gradient_clip, accumulate
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.panel_every, self.stop_on_collapse = panel_every, stop_on_collapse
        self.evaluate_every, self.select = evaluate_every, select
        self.progress, self.timeout = progress, timeout
        self.warned_of_collapse = False

    def steps(self, batching: Batching) -> int:
        """Optimizer steps of the run.

        Raises:
            ValueError: ``max_epochs`` is given for batches that have no epochs.
        """
        if self.max_steps is not None:
            return self.max_steps
        assert self.max_epochs is not None
        if batching.steps_per_epoch is None:
            raise InvalidValue(
                f"max_epochs={self.max_epochs}, but episodes are drawn without end and have no epoch; "
                "set trainer.max_steps and trainer.max_epochs=null"
            )
        return self.max_epochs * batching.steps_per_epoch

    def fit(
        self,
        algorithm: Algorithm,
        batching: Batching,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        seed: int,
        folder: Path,
        identity: checkpoint.Identity,
        validate: Callable[[], Metrics] | None,
        watch: Callable[[], Metrics] | None,
        tracker: "Silence",
        resumed: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Train to the last step; afterwards the algorithm holds the product.

        Args:
            seed: Of every draw.
            folder: The run folder.
            identity: Stored in checkpoints.
            validate: Metrics on the validation split, where the trainer is to evaluate.
            watch: Figures of the panel, where the trainer is to look at it.
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
        from ssl_runner.runs.tracking import Meter

        max_steps = self.steps(batching)
        open_ended = bool(getattr(schedule, "open_ended", False))
        keeper = Keeper(folder / "checkpoints", algorithm, optimizer, identity, resumed, open_ended)
        algorithm.train()
        with tracker.bar(keeper.start, max_steps, self.progress), stop_signals() as stop:
            if watch is not None and keeper.start == 0:
                tracker.scalars(0, _tagged("panel", watch()))
            meter = Meter(batching.images_per_step)
            for step in range(keeper.start, max_steps):
                done = step + 1
                logging = self._due(self.log_every, done, max_steps)
                looking = watch is not None and self._due(self.panel_every, done, max_steps)
                clock = Clock(step, max_steps, seed, self.device, keeper.horizon)
                distributed.begin_step(step)
                with all_there(folder, step):
                    metrics = self._next_step(algorithm, batching, optimizer, schedule, clock, meter, logging)
                    # read once, for all processes: a signal from here on is the next step's
                    stopping = distributed.any_of(stop.requested)
                saving = self._due(self.checkpoint_every, done, max_steps) or stopping
                if logging or saving or looking:
                    check_finite("loss", metrics["loss"], done, keeper.folder)
                if saving or looking:  # a finite loss can have a gradient that is not
                    norm = torch.nn.utils.get_total_norm(list(algorithm.parameters()))
                    check_finite("norm of the weights", norm, done, keeper.folder)
                values, collapsed = {}, None
                if watch is not None and looking:
                    with meter.paused():
                        values, collapsed = self._look(watch, done, tracker)
                if logging:
                    values |= _tagged("train", metrics) | meter.lap(done - keeper.start)
                    values["train/lr"] = optimizer.param_groups[0]["lr"]
                if self.evaluate_every is not None and validate is not None and done % self.evaluate_every == 0:
                    with keeper.paused(), meter.paused():
                        values |= self._validate(validate, done, keeper)
                if values:
                    tracker.scalars(done, values)
                if saving or collapsed is not None:
                    tracker.flush()
                    keeper.save(done)
                tracker.advance(done)
                if collapsed is not None:
                    raise RunStopped(f"{collapsed} The checkpoint of step {done} is in {keeper.folder}")
                if stopping:
                    raise KeyboardInterrupt(f"stopped after step {done} of {max_steps}; {how_to_go_on(folder)}")
            if stop.requested:  # too late for the last step
                raise KeyboardInterrupt(f"stopped after the last step; {how_to_go_on(folder)}")
        seconds = keeper.seconds
        return {
            "steps": max_steps,
            "training_seconds": seconds,
            "images_per_second": max_steps * batching.images_per_step / max(seconds, 1e-9),
            "product": keeper.product(self.device),
        }

    def _next_step(
        self,
        algorithm: Algorithm,
        batching: Batching,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        clock: Clock,
        meter: "Meter",
        measure: bool,
    ) -> dict[str, Tensor]:
        """Draw a batch, and take a step at the schedule's rate."""
        rate = schedule(clock.step, clock.max_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (1.0 if group.get("constant_lr") else rate)
        with enough_memory(self._remedy(algorithm, batching)):
            with meter.waiting():
                batch = batching.batch(clock.step)
            return self.step(algorithm, batch, optimizer, clock, measure=measure)

    def step(
        self, algorithm: Algorithm, batch: Any, optimizer: torch.optim.Optimizer, clock: Clock, measure: bool
    ) -> dict[str, Tensor]:
        """One optimizer step. Nothing in it waits for the device."""
        # dropout and drop-path draw from torch's own generator
        torch.manual_seed(randomness.number(clock.seed, "network", clock.step) + distributed.rank())
        optimizer.zero_grad(set_to_none=True)
        pieces = batch.chunk(self.accumulate) if self.accumulate > 1 else [batch]
        metrics: dict[str, Tensor] = {}
        carries: list[dict[str, Tensor]] = []
        for piece in pieces:
            weight = len(piece) / len(batch)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                step = algorithm.training_step(piece, clock)
            (step.loss * weight).backward()
            for name, value in ({"loss": step.loss.detach()} | step.metrics).items():
                metrics[name] = metrics.get(name, 0) + value.detach() * weight
            carries.append(step.carry)
        distributed.average_gradients(algorithm.parameters())
        if measure:
            metrics = distributed.average(metrics)
        if self.gradient_clip is not None:
            metrics["gradient_norm"] = torch.nn.utils.clip_grad_norm_(algorithm.parameters(), self.gradient_clip)
        elif measure:
            gradients = [parameter.grad for parameter in algorithm.parameters() if parameter.grad is not None]
            metrics["gradient_norm"] = torch.nn.utils.get_total_norm(gradients)
        optimizer.step()
        carry = {name: distributed.gather(torch.cat([part[name] for part in carries])) for name in carries[0]}
        algorithm.after_step(clock, carry)
        return metrics

    @staticmethod
    def _due(every: int | None, done: int, max_steps: int) -> bool:
        return every is not None and (done % every == 0 or done == max_steps)

    def _remedy(self, algorithm: Algorithm, batching: Batching) -> str:
        """What to lower where memory is not enough."""
        cut = f"cut it with trainer.accumulate={2 * self.accumulate}"
        encode = (
            f"encode it in pieces with algorithm.encode_chunks={2 * algorithm.pieces}, or lower batching.batch_size"
        )
        return f"a step has {batching.images_per_step:,} images; {cut if algorithm.divisible else encode}"

    def _look(self, watch: Callable[[], Metrics], step: int, tracker: "Silence") -> tuple[Metrics, str | None]:
        """The panel's figures, and why the run must end with them; a collapse that may go on is warned of once."""
        with enough_memory("the panel is too much; set trainer.panel_every=null"):
            values = _tagged("panel", watch())
        collapsed = collapse(values["panel/embedding_std"], step)
        if collapsed is None or self.stop_on_collapse:
            return values, collapsed
        if not self.warned_of_collapse:
            tracker.warn(collapsed)
        self.warned_of_collapse = True
        return values, None

    def _validate(self, validate: Callable[[], Metrics], step: int, keeper: Keeper) -> Metrics:
        """Scores on validation; the weights are kept if they are the best so far."""
        assert self.select is not None
        scores = validate()
        keeper.keep_best(scores[self.select], step)
        return _tagged("eval/validation", scores)


def _tagged(prefix: str, values: Mapping[str, Tensor | float]) -> Metrics:
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}
