"""The objects of a run, and what they do together."""

import copy
import functools
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Splits
from ssl_runner.evaluation.diagnostics import Diagnostics
from ssl_runner.evaluation.evaluator import Evaluator, evaluate, merits, selecting
from ssl_runner.evaluation.unseen import sources
from ssl_runner.models import saving
from ssl_runner.optim.schedules import Schedule
from ssl_runner.runs import provenance
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training import checkpoint, sharding
from ssl_runner.training.begun import Begun
from ssl_runner.training.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """All objects of a run.

    Attributes:
        algorithm: Evaluated and exported.
        sharded: The copy that is trained instead, divided among processes, or None (`sharding.shard`).
        begun: What the encoder begins from; None for random weights.
        cautions: Sentences on what casts doubt on the result.
    """

    seed: int
    trainer: Trainer
    splits: Splits
    batching: Batching
    algorithm: Algorithm
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    evaluators: dict[str, Evaluator]
    identity: checkpoint.Identity
    step_bytes: int | None
    sharded: Algorithm | None = None
    begun: Begun | None = None
    cautions: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        return self.trainer.device

    @property
    def trained(self) -> Algorithm:
        """What the steps change."""
        return self.algorithm if self.sharded is None else self.sharded

    def whole(self) -> AbstractContextManager[None]:
        """Inside, process 0 has the current weights in `algorithm`. All processes enter."""
        return nullcontext() if self.sharded is None else sharding.gathered(self.sharded, self.algorithm, self.device)

    @property
    def fingerprint(self) -> str:
        """Of the training data."""
        return self.splits.train.fingerprint

    @property
    def bytes_needed(self) -> int:
        """Memory of a step and of the images, by the estimate."""
        parts = (self.splits.train, self.splits.validation, self.splits.test)
        return (self.step_bytes or 0) + sum(part.images.nbytes for part in parts if part is not None)

    def gather(self) -> None:
        """Give process 0's `algorithm` the current weights. All processes call this."""
        if self.sharded is not None:
            sharding.gather(self.sharded, self.algorithm, self.device)

    def description(self) -> dict[str, Any]:
        """The content of result.json before the first step: seed, data, protocols, hardware."""
        splits, encoder = self.splits, self.algorithm.eval_encoder()
        parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        return {
            "config_hash": self.identity.config_hash,
            "seed": self.seed,
            "planned_steps": self.trainer.steps(self.batching),
            "dataset": {
                "name": splits.train.name.rpartition("/")[0] or splits.train.name,
                "fingerprint": splits.train.fingerprint,
                "split_by": splits.by,
                "images": {name: 0 if part is None else len(part) for name, part in parts.items()},
                "classes": {name: 0 if part is None else part.n_classes for name, part in parts.items()},
                **{note.key: note.value for note in splits.notes},
            },
            "encoder": {"features": encoder.out_features, "represented_by": encoder.represented_by},
            **({} if self.begun is None else {"init": self.begun.facts}),
            **({"cautions": list(self.cautions)} if self.cautions else {}),
            "protocols": {name: self._protocol(evaluator) for name, evaluator in self.evaluators.items()}
            | {"algorithm": self.algorithm.protocol()},
            "hardware": provenance.hardware(self.device),
        }

    def _protocol(self, evaluator: Evaluator) -> dict[str, Any]:
        stated = evaluator.protocol(self.splits)
        if self.begun is None:
            return stated
        return self.begun.protocol(stated, getattr(evaluator, "target", None) is None, self.splits)

    def untrained(self) -> Algorithm:
        """A copy of the algorithm, which was not trained yet, with random weights, whatever its encoder begins from."""
        return copy.deepcopy(self.algorithm) if self.begun is None else self.begun.undone(self.algorithm)

    def save(self, node: dict[str, Any], folder: Path) -> None:
        """Write the trained encoder into the run folder.

        Args:
            node: The config node that builds the encoder's backbone.
            folder: The run folder.
        """
        made_for = self.batching.n_outputs, self.batching.most_ways
        saving.save_encoder(self.algorithm.eval_encoder(), node, *made_for, folder, self._origin())

    def rehearse_saving(self, node: dict[str, Any]) -> None:
        """Check before the first step that everything can be saved after the last one; raises ValueError."""
        made_for = self.batching.n_outputs, self.batching.most_ways
        saving.rehearse_saving(self.algorithm.eval_encoder(), node, *made_for, self._origin())
        checkpoint.rehearse(self.algorithm, self.optimizer, self.identity)

    def _origin(self) -> dict[str, str]:
        """The origin that is stored in an encoder's file."""
        trained = self.splits.train
        known = {"config_hash": self.identity.config_hash, "dataset": trained.name}
        unknown = self.begun is not None and self.begun.facts.get("sources") is None
        return known | {"sources": json.dumps(None if unknown else sorted(sources(trained)))}

    def one_step(self) -> tuple[float, dict[str, float]]:
        """Take the first step; returns its duration in seconds and its metrics."""
        context = StepContext(0, self.trainer.steps(self.batching), self.seed, self.device)
        began = time.perf_counter()
        self.trained.train()
        metrics = self.trainer.step(self.trained, self.batching.batch(0), self.optimizer, context, measure=True)
        figures = {name: float(value) for name, value in metrics.items()}
        return time.perf_counter() - began, figures

    @property
    def validate(self) -> Callable[[], dict[str, float]] | None:
        """A function that evaluates on the validation split, or None if the trainer does not ask for it."""
        if self.trainer.evaluate_every is None:
            return None
        splits = self.splits.for_selection()

        def validate() -> dict[str, float]:
            scores = evaluate(selecting(self.evaluators), self.algorithm, splits, self.device)
            return {name: scores[name] for name in merits(scores)}

        return validate

    @property
    def watch(self) -> Callable[[], dict[str, float]] | None:
        """A function that computes the diagnostics, or None if the trainer does not ask for them."""
        diagnostics = self.diagnostics
        return None if diagnostics is None else functools.partial(diagnostics, self.algorithm)

    @property
    def diagnostics(self) -> Diagnostics | None:
        """The diagnostics to log while training, or None if the trainer does not ask for them."""
        if self.trainer.diagnostics_every is None:
            return None
        return Diagnostics.of(self.splits, self.batching, self.device)
