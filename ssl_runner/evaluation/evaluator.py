"""The evaluator interface, and running several evaluators."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.features import remembered
from ssl_runner.runtime import progress

EvaluatorLike = TypeVar("EvaluatorLike")

# Last parts of the keys of values that an evaluator chose, which are not figures of merit.
CHOICES = ("regularisation", "learning_rate")


@runtime_checkable
class Evaluator(Protocol):
    """Scores a trained algorithm, using only its `eval_encoder` and `classify`.

    It has its own fixed seed, draws nothing from global generators, and leaves the algorithm's parameters, buffers and
    modes unchanged. Scores whose keys begin with ``time/`` are durations; comparisons of runs ignore them.

    An evaluator with fixed tasks has a method ``write_manifest(folder, splits)``, see `write_manifests`.

    An evaluator whose attribute ``final`` is true scores only the trained algorithm, once, since it has its own
    baselines and uses images by which nothing may be selected, see `asked_again`.
    """

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """Scores by key, ``<evaluator>/<score>``; accuracies are fractions."""
        ...

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """The keys of the scores, so that one can be selected by; without an algorithm, those of every algorithm."""
        ...

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Find before training what would fail after it; without an algorithm, only check the splits.

        Raises:
            ValueError: The algorithm or the splits do not fit; the message gives the remedy.
        """
        ...

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """A description of the scores as plain JSON data: settings, sizes, seeds, whether the classes were seen."""
        ...


def merits(keys: Iterable[str]) -> list[str]:
    """The keys that measure quality: neither chosen values nor durations."""
    return [key for key in keys if key.rpartition("/")[2] not in CHOICES and not key.startswith("time/")]


def selecting(evaluators: Mapping[str, EvaluatorLike]) -> dict[str, EvaluatorLike]:
    """The evaluators that may select a model; those with their own dataset use its test images and may not."""
    return {name: one for name, one in asked_again(evaluators).items() if getattr(one, "target", None) is None}


def asked_again(evaluators: Mapping[str, EvaluatorLike]) -> dict[str, EvaluatorLike]:
    """The evaluators that also score the run's baselines: all that are not final."""
    return {name: one for name, one in evaluators.items() if not getattr(one, "final", False)}


def write_manifests(evaluators: Mapping[str, object], folder: Path, splits: Splits) -> None:
    """Write the tasks of evaluators with fixed tasks into the run folder."""
    for evaluator in evaluators.values():
        write = getattr(evaluator, "write_manifest", None)
        if write is not None:
            write(folder, splits)


def evaluate(
    evaluators: dict[str, Evaluator], algorithm: Algorithm, splits: Splits, device: torch.device
) -> dict[str, float]:
    """The scores of all evaluators; evaluators that need the same features share them.

    Raises:
        ValueError: If two evaluators return the same key.
    """
    scores: dict[str, float] = {}
    with remembered():
        for name, evaluator in evaluators.items():
            with progress.part(name):
                new = evaluator(algorithm, splits, device)
            clashes = sorted(scores.keys() & new.keys())
            if clashes:
                raise InvalidValue(
                    f"eval.{name} returns {clashes} a second time; keep only one evaluator that returns them"
                )
            scores |= new
    return scores
