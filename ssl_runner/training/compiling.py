"""Network and augmentation through torch's compiler, for training only: evaluation has batches of many shapes."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.models.network import Encoder
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training.trainer import Computed, Gradients

Tell = Callable[[str], None]


class Compiled:
    """A function that is compiled at its first call; if that fails, it stays as it was, and the reason is told.

    Args:
        function: A pure function of tensors.
        name: What it is, in words.
        tell: Called with the seconds that compiling took.
    """

    def __init__(self, function: Callable[..., Any], name: str, tell: Tell) -> None:
        self.plain, self.name, self.tell = function, name, tell
        self.program: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        if self.program is not None:
            return self.program(*arguments)
        self.program, began = torch.compile(self.plain, dynamic=False), time.perf_counter()
        try:
            result = self.program(*arguments)
        except Exception as error:  # torch documents none: there may be no C compiler, or an operation that is unknown
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.program = self.plain
            self.tell(f"{self.name} cannot be compiled and stays as it is: {reason}")
            return self.plain(*arguments)
        self.tell(f"compiled {self.name} in {time.perf_counter() - began:.1f} s")
        return result


class CompiledNetworks:
    """Computes gradients with compiled encoders, each from its first call on.

    Args:
        compute: `Trainer.gradients`.
        algorithm: Its encoders are compiled: the student's, and a teacher's if there is one.
        tell: Called with the seconds that compiling took.
    """

    def __init__(self, compute: Gradients, algorithm: Algorithm, tell: Tell) -> None:
        self.compute = compute
        encoders = [part for part in algorithm.modules() if isinstance(part, Encoder)]
        self.programs: list[tuple[nn.Module, Compiled]] = []
        for encoder in encoders:
            # what a module's call does without its compiled program: its hooks and its forward pass
            self.programs.append((encoder.backbone, Compiled(encoder.backbone._call_impl, "an encoder", tell)))

    def __call__(self, algorithm: Algorithm, batch: Any, context: StepContext) -> Computed:
        for module, program in self.programs:
            module._compiled_call_impl = program  # where nn.Module.compile keeps it
        try:
            return self.compute(algorithm, batch, context)
        finally:
            for module, _ in self.programs:
                module._compiled_call_impl = None
