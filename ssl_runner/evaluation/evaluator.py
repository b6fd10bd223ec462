"""What an evaluator is, and how several are run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.features import remembered

EvaluatorLike = TypeVar("EvaluatorLike")

# What an evaluator chose on its way to a score, by the last part of its key: no figure of merit.
CHOICES = ("regularisation",)


@runtime_checkable
class Evaluator(Protocol):
    """Scores what an algorithm has learned, through its `eval_encoder` and `classify` alone.

    It has its own fixed seed, draws nothing from global generators and leaves the algorithm as it was: parameters,
    buffers and modes. Scores whose keys begin with ``time/`` are a clock's: nothing that compares runs looks at them.

    One that asks fixed tasks has a method ``write_manifest(folder, splits)``: see `write_manifests`.

    One with an attribute ``final`` that is true is asked once, of the trained algorithm, as it brings baselines of its
    own and judges on images that nothing may select by: see `asked_again`.
    """

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """Scores by key, ``<evaluator>/<score>``; accuracies are fractions."""
        ...

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """The keys of the scores, for whoever selects by one; without an algorithm, those that every algorithm has."""
        ...

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Refuse before training what would fail after it; without an algorithm, what is wrong with the splits.

        Raises:
            ValueError: What is wrong with the algorithm or the splits, and the remedy.
        """
        ...

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """What the scores are, as plain JSON data: settings, sizes, seeds, whether the classes were seen."""
        ...


def merits(keys: Iterable[str]) -> list[str]:
    """Those keys that say how good something is: neither what was chosen for it, nor a clock's."""
    return [key for key in keys if key.rpartition("/")[2] not in CHOICES and not key.startswith("time/")]


def selecting(evaluators: Mapping[str, EvaluatorLike]) -> dict[str, EvaluatorLike]:
    """Those by which a model may be selected: one with a dataset of its own judges test images, which steer nothing."""
    return {name: one for name, one in asked_again(evaluators).items() if getattr(one, "target", None) is None}


def asked_again(evaluators: Mapping[str, EvaluatorLike]) -> dict[str, EvaluatorLike]:
    """Those that score the run's baselines, too: all that are not final."""
    return {name: one for name, one in evaluators.items() if not getattr(one, "final", False)}


def write_manifests(evaluators: Mapping[str, object], folder: Path, splits: Splits) -> None:
    """Write into the run folder which tasks will be asked, where evaluators ask fixed ones."""
    for evaluator in evaluators.values():
        write = getattr(evaluator, "write_manifest", None)
        if write is not None:
            write(folder, splits)


def evaluate(
    evaluators: dict[str, Evaluator], algorithm: Algorithm, splits: Splits, device: torch.device
) -> dict[str, float]:
    """The scores of all evaluators; those that judge the same features share them.

    Raises:
        ValueError: If two evaluators give the same key.
    """
    scores: dict[str, float] = {}
    with remembered():
        for name, evaluator in evaluators.items():
            new = evaluator(algorithm, splits, device)
            clashes = sorted(scores.keys() & new.keys())
            if clashes:
                raise InvalidValue(
                    f"eval.{name} gives {clashes} a second time; keep only one evaluator that gives them"
                )
            scores |= new
    return scores
