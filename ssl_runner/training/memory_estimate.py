"""Estimates the memory of a training step without running it."""

import copy
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.runtime import process_group
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training.meta_results import MetaResults


def step_memory(algorithm: Algorithm, batch: Any, make_optimizer: Any, accumulate: int) -> int | None:
    """Bytes of weights, gradients, optimizer state and activations at the peak of a step, including the batch.

    The step runs on torch's meta device, where tensors have shapes but no content, so it takes milliseconds and no
    memory. Workspace that libraries allocate inside a convolution is not counted.

    Args:
        algorithm: On any device; it is not changed.
        batch: A whole batch.
        make_optimizer: Makes an optimizer from parameter groups.
        accumulate: Number of pieces the batch is cut into; only one is processed at a time.

    Returns:
        The bytes, or None for a method that cannot run without values because its shapes depend on them.
    """
    with _Footprint() as footprint:
        try:
            shadow = copy.deepcopy(algorithm).to("meta")
            piece = batch.to("meta").chunk(accumulate)[0] if accumulate > 1 else batch.to("meta")
            optimizer = make_optimizer(shadow.parameter_groups())
            context = StepContext(step=0, max_steps=1, seed=0, device=torch.device("cpu"))
            with process_group.single_process(), torch.enable_grad():
                shadow.train().training_step(piece, context).loss.backward()
            optimizer.step()
        except (RuntimeError, NotImplementedError):  # an operation has no meta kernel or needs a value
            return None
    held = sum(value.nbytes for value in tree_leaves(vars(batch)) if isinstance(value, torch.Tensor))
    return footprint.most + held


class _Footprint(TorchDispatchMode):
    """Counts the bytes of all live meta tensors and remembers the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.most = 0, 0
        self.seen: set[int] = set()
        self.results = MetaResults()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = self.results.of(func, args, kwargs or {})
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.device.type == "meta":
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.seen:  # a view
            return
        self.seen.add(key)
        self.alive += storage.nbytes()
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.alive -= size
