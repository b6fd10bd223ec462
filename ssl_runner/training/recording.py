"""Records the forward and backward pass of a step as a CUDA graph, and replays it: one launch instead of hundreds.

A graph replays the same kernels on the same memory. So a recorded step reads its batch from memory that every replay
fills first, and depends on its position in the run only through what `StepContext` can renew: schedules, shares of the
run, and generators. What reads its position otherwise, waits for the device or changes shapes is not recorded but
launched as before, and the reason is told. Kernels and numbers are the same either way.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.runtime import randomness
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training.trainer import Computed, Gradients

WARM = 3  # steps of a new shape before it is recorded: libraries choose and allocate in the first ones
MOST = 12  # graphs: each keeps its own activations, so that batches of ever new shapes are not recorded
POSITION = ("progress", "step", "max_steps")


@dataclass
class Needs:
    """What a step took from its context, in order.

    Attributes:
        streams: Names of the generators.
        shares: Shares of the run that it compared its position with.
        position: The attribute by which it read its position itself, or "".
    """

    streams: list[str] = field(default_factory=list)
    shares: set[float] = field(default_factory=set)
    position: str = ""


@dataclass
class Inputs:
    """What a graph reads besides its batch, renewed before each replay."""

    generators: list[tuple[str, torch.Generator]]
    schedules: list[tuple[Callable[[float], float], Tensor]] = field(default_factory=list)

    def renew(self, context: StepContext) -> None:
        for stream, generator in self.generators:
            generator.manual_seed(randomness.number(context.seed, stream, context.step))
        for schedule, value in self.schedules:
            value.fill_(schedule(context.progress))


class Observed(StepContext):
    """A context that notes what a step needs; while recording, it gives what can be renewed.

    Args:
        of: The step's own context.
        needs: Where the needs are noted.
        inputs: The graph's inputs while it is recorded, None before.
    """

    def __init__(self, of: StepContext, needs: Needs, inputs: Inputs | None = None) -> None:
        super().__init__(of.step, of.max_steps, of.seed, of.device, of.horizon)
        for name, value in {"of": of, "needs": needs, "inputs": inputs}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "given", 0)

    def __getattribute__(self, name: str) -> Any:
        if name in POSITION and "given" in object.__getattribute__(self, "__dict__"):
            self.needs.position = self.needs.position or name
        return object.__getattribute__(self, name)

    def reached(self, share: float) -> bool:
        self.needs.shares.add(share)
        return self.of.reached(share)

    def follow(self, schedule: Callable[[float], float]) -> float | Tensor:
        if self.inputs is None:
            return self.of.follow(schedule)
        value = torch.full((), schedule(self.of.progress), device=self.device)
        self.inputs.schedules.append((schedule, value))
        return value

    def generator(self, stream: str) -> torch.Generator:
        if self.inputs is None:
            self.needs.streams.append(stream)
            return self.of.generator(stream)
        number = self.given
        if number >= len(self.inputs.generators):
            raise RuntimeError(f"it asks for the generator {stream!r} in some steps only")
        object.__setattr__(self, "given", number + 1)
        return self.inputs.generators[number][1]


@dataclass
class Graph:
    """One recorded shape of a step."""

    seen: int = 0
    needs: Needs = field(default_factory=Needs)
    graph: torch.cuda.CUDAGraph | None = None
    batch: Any = None
    inputs: Inputs | None = None
    computed: Computed | None = None
    gradients: list[Tensor | None] = field(default_factory=list)


class Recorder:
    """Computes gradients like `Trainer.gradients`, from a recording as soon as there is one.

    Attributes:
        told: Why the steps are not recorded, or "".

    Args:
        compute: `Trainer.gradients`.
        tell: Called with `told`, once.
    """

    def __init__(self, compute: Gradients, tell: Callable[[str], None]) -> None:
        self.compute, self.tell, self.told = compute, tell, ""
        self.graphs: dict[Any, Graph] = {}
        self.shares: set[float] = set()
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self.current: Graph | None = None

    def __call__(self, algorithm: Algorithm, batch: Any, context: StepContext) -> Computed:
        if self.told:
            return self.compute(algorithm, batch, context)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in batch.tensors())
        phase = tuple(context.reached(share) for share in sorted(self.shares))
        key = shapes, phase, tuple(getattr(batch, "domains", ())), getattr(batch, "n_way", None)
        graph = self.graphs.setdefault(key, Graph())
        if graph.graph is None and graph.seen < WARM:
            return self._warm_up(graph, algorithm, batch, context)
        if graph.graph is None:
            try:
                self._record(graph, algorithm, batch, context)
            except RuntimeError as error:  # the step has not been taken: recording executes nothing
                self._give_up(str(error).splitlines()[0])
                return self.compute(algorithm, batch, context)
        return self._replay(graph, algorithm, batch, context)

    def _warm_up(self, graph: Graph, algorithm: Algorithm, batch: Any, context: StepContext) -> Computed:
        """Take a step of a new shape on the stream that will record it, and see whether it can be recorded."""
        graph.seen += 1
        needs = Needs()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn" if graph.seen == WARM else "default")
            try:
                computed = self.compute(algorithm, batch, Observed(context, needs))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream().wait_stream(self.stream)
        waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
        for warning in caught:
            if warning not in waits:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        self.shares, graph.needs, self.current = self.shares | needs.shares, needs, None
        if needs.position:
            self._give_up(f"it reads context.{needs.position} instead of context.follow or context.reached")
        elif waits:
            self._give_up(f"it waits for the device in {waits[0].filename}:{waits[0].lineno}")
        elif len(self.graphs) > MOST:
            self._give_up(f"batches have more than {MOST} shapes")
        return computed

    def _record(self, graph: Graph, algorithm: Algorithm, batch: Any, context: StepContext) -> None:
        graph.batch = batch.each(torch.clone)
        graph.inputs = Inputs([(stream, torch.Generator(context.device)) for stream in graph.needs.streams])
        recording = torch.cuda.CUDAGraph()
        for _, generator in graph.inputs.generators:
            recording.register_generator_state(generator)
        with torch.cuda.graph(recording, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            graph.computed = self.compute(algorithm, graph.batch, Observed(context, Needs(), graph.inputs))
        graph.gradients = [parameter.grad for parameter in algorithm.parameters()]
        graph.graph, self.current = recording, graph

    def _replay(self, graph: Graph, algorithm: Algorithm, batch: Any, context: StepContext) -> Computed:
        assert graph.graph is not None and graph.inputs is not None and graph.computed is not None
        torch._foreach_copy_(graph.batch.tensors(), batch.tensors())
        graph.inputs.renew(context)
        graph.graph.replay()
        if self.current is not graph:
            for parameter, gradient in zip(algorithm.parameters(), graph.gradients, strict=True):
                parameter.grad = gradient
            self.current = graph
        return graph.computed

    def _give_up(self, why: str) -> None:
        self.told = f"steps are launched one operation at a time, not recorded: {why}"
        self.graphs.clear()
        self.tell(self.told)
