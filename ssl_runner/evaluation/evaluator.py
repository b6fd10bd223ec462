"""What an evaluator is, and how several are run."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Splits
from ssl_runner.evaluation.features import remembered


@runtime_checkable
class Evaluator(Protocol):
    """Scores what an algorithm has learned, through its `eval_encoder` and `classify` alone.

    It has its own fixed seed, draws nothing from global generators and leaves the algorithm as it was: parameters,
    buffers and modes.
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


def selecting(evaluators: Mapping[str, Evaluator]) -> dict[str, Evaluator]:
    """Those by which a model may be selected: one with a dataset of its own judges test images, which steer nothing."""
    return {name: one for name, one in evaluators.items() if getattr(one, "target", None) is None}


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
                raise ValueError(f"eval.{name} gives {clashes} a second time; keep only one evaluator that gives them")
            scores |= new
    return scores
