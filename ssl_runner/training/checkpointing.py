"""Saves checkpoints and the best weights while a run trains."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.runtime import atomic_write, process_group
from ssl_runner.runtime.step_context import Horizon
from ssl_runner.training import checkpoint, sharding


class Checkpointing:
    """Checkpoints, the weights with the best validation score, and the training time.

    Attributes:
        start: Steps done before this session.
        best: Value and step of the best validation score so far.

    Args:
        folder: The folder of the checkpoints.
        algorithm: The algorithm to save; its state is restored if a run is resumed.
        whole: The algorithm that validation judged and that gets the selected weights. It is another one only if
            ``algorithm`` is sharded.
        optimizer: The optimizer to save; its state is restored too.
        identity: Stored in the checkpoints.
        resumed: The state that `checkpoint.load` returned, or None for a new run.
        open_ended: Whether the learning rate is independent of where the run ends.
    """

    def __init__(
        self,
        folder: Path,
        algorithm: Algorithm,
        whole: Algorithm,
        optimizer: torch.optim.Optimizer,
        identity: checkpoint.Identity,
        resumed: dict[str, Any] | None,
        open_ended: bool,
    ) -> None:
        self.folder, self.algorithm, self.whole = folder, algorithm, whole
        self.optimizer, self.identity = optimizer, identity
        self.start, self.best, before = 0, None, 0.0
        self.horizon, self.ends = Horizon(matters=not open_ended), list[int]()
        if resumed is not None:
            sharding.load(algorithm, optimizer, resumed)
            self.start, self.best, before = resumed["step"], resumed["best"], resumed["seconds"]
            self.horizon.matters |= not resumed["open_ended"]
            self.ends = resumed["ends"]
        self.began = time.perf_counter() - before

    @property
    def seconds(self) -> float:
        """Training time so far, including that before the run was resumed."""
        return time.perf_counter() - self.began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time does not count as training time."""
        began = time.perf_counter()
        yield
        self.began += time.perf_counter() - began

    def save(self, step: int) -> None:
        """Write a checkpoint after ``step`` steps. All processes call this; only process 0 writes."""
        algorithm, optimizer = (sharding.whole_state(part) for part in (self.algorithm, self.optimizer))
        if process_group.rank() > 0:
            return
        given = algorithm, optimizer, self.identity, self.best, self.seconds
        checkpoint.save(self.folder, step, *given, not self.horizon.matters, self.ends)

    def keep_best(self, value: float, step: int) -> None:
        """Save the weights if their validation score is the best so far."""
        if self.best is not None and value <= self.best["value"]:
            return
        self.folder.mkdir(exist_ok=True)
        state = self.whole.state_dict()
        atomic_write.write_atomically(self.folder / checkpoint.BEST, lambda path: torch.save(state, path))
        self.best = {"value": value, "step": step}

    def load_selected(self, device: torch.device) -> dict[str, Any]:
        """Load the selected weights into the algorithm: the best if any were saved, else the last. Returns which."""
        if self.best is None:
            return {"checkpoint": checkpoint.LAST}
        state = torch.load(self.folder / checkpoint.BEST, map_location=device, weights_only=True)
        self.whole.load_state_dict(state)
        return {"checkpoint": checkpoint.BEST} | self.best
