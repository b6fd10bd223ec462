"""Training settings (steps, device, precision) and the optimizer step that every method shares."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batches import Episodes, Views
from ssl_runner.data.batching.batching import Batching
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import allocator, collectives, process_group, randomness
from ssl_runner.runtime.device import choose_device
from ssl_runner.runtime.spans import span
from ssl_runner.runtime.step_context import StepContext

MOST_THREADS = 1024
LONG = 5_000  # steps in which compiling pays: on an H200 it took 20 s and saved 4 ms a step of SimCLR


class Computed(NamedTuple):
    """What the forward and backward pass of a batch leaves besides the gradients.

    Attributes:
        metrics: Scalars to log, ``loss`` among them.
        carry: What `Algorithm.after_step` needs, of this process's rows.
    """

    metrics: dict[str, Tensor]
    carry: dict[str, Tensor]


Gradients = Callable[[Algorithm, Any, StepContext], Computed]


class Trainer:
    """Steps, device, precision, clipping, accumulation, and the intervals of checkpoints and evaluation.

    Args:
        max_steps: Optimizer steps, or null.
        max_epochs: Passes over the training set, or null; give exactly one of the two.
        device: ``auto`` chooses CUDA, else Apple's MPS, else the CPU.
        precision: ``bfloat16`` runs the forward pass under autocast.
        threads: CPU threads, null for torch's choice.
        channels_last: Keep weights and feature maps in the memory format that is fastest for convolutions.
        keep_pages: Make the allocator keep freed memory (`ssl_runner.runtime.allocator`).
        cudnn_benchmark: On CUDA, time cuDNN's algorithms for each shape and use the fastest. This is faster if shapes
            repeat, but two runs may use different algorithms and so differ in the last bits. Without it, cuDNN uses
            only algorithms that give the same bits each time.
        compile: On CUDA, ``auto`` records a step as a graph and replays it wherever the method allows
            (`ssl_runner.training.recording`). Runs over views of 5,000 steps and more are compiled, too. ``true``
            always compiles network and augmentation, on any device, which takes about half a minute at the start;
            ``false`` launches every operation by itself. Configs of earlier versions lack it.
        profile: Whether to write a profile of ten steps into the run folder (`ssl_runner.training.profiling`). Configs
            of earlier versions lack it.
        gradient_clip_norm: Largest norm of the gradient, or null.
        accumulate_grad_batches: Pieces a batch is cut into, each with its own backward pass. Pieces are weighted by
            size, so the gradient equals that of the whole batch if the loss does not compare across pieces (MAML).
            Batch normalisation sees each piece separately.
        log_every: Steps between two points in the logs.
        checkpoint_every: Steps between two checkpoints; the last step always writes one.
        diagnostics_every: Steps between two computations of the diagnostics (`ssl_runner.evaluation.diagnostics`), or
            null for none.
        stop_on_collapse: Whether a collapsed embedding ends the run, after a checkpoint; otherwise it is a warning.
        evaluate_every: Steps between evaluations on the validation split, ``last`` for one after the last step, or null
            for none.
        select: Metric whose best validation value selects the checkpoint (best.pt), or null to use the last step.
        progress: Whether to draw a progress bar.
        timeout: With several processes, seconds to wait for one that does not answer. Configs of earlier versions lack
            it.
        shard: Divide weights, gradients and optimizer state among processes (`ssl_runner.training.sharding`), for
            encoders that do not fit otherwise. Configs of earlier versions lack it.
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
        gradient_clip_norm: float | None,
        accumulate_grad_batches: int,
        log_every: int,
        checkpoint_every: int,
        diagnostics_every: int | None,
        stop_on_collapse: bool,
        evaluate_every: int | Literal["last"] | None,
        select: str | None,
        progress: bool,
        timeout: float = process_group.TIMEOUT,
        compile: bool | Literal["auto"] = "auto",
        profile: bool = False,
        shard: bool = False,
    ) -> None:
        self._refuse(max_steps, max_epochs, precision, gradient_clip_norm, timeout)
        self._refuse_cadences(select, evaluate_every, stop_on_collapse, diagnostics_every)
        counts = {
            "max_steps": max_steps,
            "max_epochs": max_epochs,
            "accumulate_grad_batches": accumulate_grad_batches,
            "log_every": log_every,
        }
        counts |= {"checkpoint_every": checkpoint_every, "threads": threads}
        counts |= {"evaluate_every": None if evaluate_every == "last" else evaluate_every}
        counts |= {"diagnostics_every": diagnostics_every}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise InvalidValue(f"{name}={value}; it must be at least 1")
        if threads is not None and threads > MOST_THREADS:
            raise InvalidValue(f"threads={threads}; give at most {MOST_THREADS}, or null for torch's choice")
        self.max_steps, self.max_epochs = max_steps, max_epochs
        self.device = choose_device(device)
        if precision == "bfloat16" and self.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            warnings.warn("precision=bfloat16 is about eight times slower on this CPU than float32", stacklevel=2)
        self.precision, self.threads = precision, threads
        self.channels_last, self.keep_pages = channels_last, keep_pages
        self.cudnn_benchmark = cudnn_benchmark
        self.gradient_clip_norm, self.accumulate_grad_batches = gradient_clip_norm, accumulate_grad_batches
        self.log_every, self.checkpoint_every = log_every, checkpoint_every
        self.diagnostics_every, self.stop_on_collapse = diagnostics_every, stop_on_collapse
        self.evaluate_every, self.select = evaluate_every, select
        self.progress, self.timeout = progress, timeout
        self.compile, self.profile, self.shard = compile, profile, shard

    @property
    def used_threads(self) -> int:
        """Number of CPU threads: the configured one, or torch's choice."""
        return torch.get_num_threads() if self.threads is None else self.threads

    def compiles(self, batch_type: type[Views] | type[Episodes], steps: int) -> bool:
        """Whether network and augmentation are compiled in a run of so many steps.

        It depends on the whole run, not on what is left of it, so that a resumed run computes the same bits.
        """
        if self.compile == "auto":
            return self.records and batch_type is Views and steps >= LONG
        return self.compile is True

    @property
    def halves(self) -> bool:
        """Whether the forward pass is in bfloat16."""
        return self.precision == "bfloat16"

    @property
    def records(self) -> bool:
        """Whether steps are recorded: on CUDA, in a single process."""
        return self.device.type == "cuda" and self.compile is not False and process_group.size() == 1

    @contextmanager
    def process_settings(self) -> Iterator[None]:
        """Inside, threads and cuDNN have the configured settings. An allocator that keeps pages stays so afterwards."""
        if self.keep_pages:
            allocator.keep_pages()
        cudnn: Any = torch.backends.cudnn
        threads = torch.get_num_threads()
        before = cudnn.benchmark, cudnn.deterministic
        torch.set_num_threads(self.used_threads)
        cudnn.benchmark, cudnn.deterministic = self.cudnn_benchmark, not self.cudnn_benchmark
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            cudnn.benchmark, cudnn.deterministic = before

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
                f"max_epochs={self.max_epochs}, but episodes are drawn without limit, so there is no epoch; "
                "set trainer.max_steps and trainer.max_epochs=null"
            )
        return self.max_epochs * batching.steps_per_epoch

    @staticmethod
    def _refuse(
        max_steps: int | None, max_epochs: int | None, precision: str, gradient_clip_norm: float | None, timeout: float
    ) -> None:
        """Raises InvalidValue."""
        if (max_steps is None) == (max_epochs is None):
            raise InvalidValue(
                f"max_steps={max_steps}, max_epochs={max_epochs}; give exactly one and set the other to null"
            )
        if precision not in ("float32", "bfloat16"):
            raise InvalidValue(f"precision={precision!r} is not one of float32, bfloat16")
        if gradient_clip_norm is not None and not gradient_clip_norm > 0:
            raise InvalidValue(f"gradient_clip_norm={gradient_clip_norm}; give a norm above 0, or null")
        if not timeout > 0:
            raise InvalidValue(f"timeout={timeout}; give seconds above 0")

    @staticmethod
    def _refuse_cadences(
        select: str | None, evaluate_every: int | str | None, stop_on_collapse: bool, diagnostics_every: int | None
    ) -> None:
        """Raises InvalidValue."""
        if (select is None) != (evaluate_every is None):
            raise InvalidValue(f"select={select}, evaluate_every={evaluate_every}; selection needs both, or both null")
        if stop_on_collapse and diagnostics_every is None:
            raise InvalidValue(
                "stop_on_collapse=true needs diagnostics, but diagnostics_every=null; set diagnostics_every, say 100"
            )

    def step(
        self,
        algorithm: Algorithm,
        batch: Any,
        optimizer: torch.optim.Optimizer,
        context: StepContext,
        measure: bool,
        gradients: Gradients | None = None,
    ) -> dict[str, Tensor]:
        """Take one optimizer step. Nothing in it waits for the device.

        Args:
            measure: Whether the metrics will be logged.
            gradients: Another way to compute what `gradients` computes, which is the default.
        """
        # dropout and drop-path draw from torch's own generator
        torch.manual_seed(randomness.number(context.seed, "network", context.step) + process_group.rank())
        metrics, carry = (gradients or self.gradients)(algorithm, batch, context)
        metrics = dict(metrics)
        if measure:
            metrics = collectives.average(metrics)
        if self.gradient_clip_norm is not None or measure:
            slopes = [parameter.grad for parameter in algorithm.parameters() if parameter.grad is not None]
            metrics["gradient_norm"] = collectives.total_norm(slopes)
        if self.gradient_clip_norm is not None:
            norm = metrics["gradient_norm"]
            torch.nn.utils.clip_grads_with_norm_(algorithm.parameters(), self.gradient_clip_norm, norm)
        with span("optimizer"):
            optimizer.step()
            algorithm.after_step(context, {name: collectives.gather(part) for name, part in carry.items()})
        return metrics

    def gradients(self, algorithm: Algorithm, batch: Any, context: StepContext) -> Computed:
        """Compute the gradients of a batch, in as many pieces as configured, and their means over processes."""
        parameters = list(algorithm.parameters())  # as they are between steps: sharded, if they are
        for parameter in parameters:
            parameter.grad = None
        pieces = batch.chunk(self.accumulate_grad_batches) if self.accumulate_grad_batches > 1 else [batch]
        metrics: dict[str, Tensor] = {}
        carries: list[dict[str, Tensor]] = []
        for number, piece in enumerate(pieces, 1):
            weight, last = len(piece) / len(batch), number == len(pieces)
            with span("forward"), torch.autocast(self.device.type, torch.bfloat16, enabled=self.halves):
                step = algorithm.training_step(piece, context)
            mean = collectives.averaged_gradients(parameters) if last else nullcontext()
            with span("backward"), mean:
                (step.loss * weight).backward()
            for name, value in ({"loss": step.loss.detach()} | step.metrics).items():
                metrics[name] = metrics.get(name, 0) + value.detach() * weight
            carries.append(step.carry)
        return Computed(metrics, {name: torch.cat([part[name] for part in carries]) for name in carries[0]})
