"""A linear classifier on frozen features, its regularisation chosen on validation images."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.answers import keep
from ssl_runner.evaluation.features import gallery_and_queries
from ssl_runner.evaluation.gallery import by_share, gallery_indices
from ssl_runner.evaluation.labelled import Labelled
from ssl_runner.evaluation.logistic_regression import TOLERANCE, Regression, logits, standardise
from ssl_runner.evaluation.reading import Reading
from ssl_runner.models.features import evaluating
from ssl_runner.models.network import Encoder
from ssl_runner.models.vit import Pool

TIMED = 256  # rows
EVALUATIONS = 100  # of the loss, for all fits of the grid together, if the classes are hard to separate


class LinearProbe(Labelled):
    """Accuracy of a linear classifier on standardised features, with regularisation chosen on the validation split.

    L-BFGS minimises mean cross-entropy + r / 2 ||W||^2; the bias is not penalised. The classifier is fitted on train
    for each r from strong to weak, each time starting from the previous solution. The r with the best validation
    accuracy (the strongest, for ties) is fitted again on train and validation together and scored once on test. In
    scikit-learn's terms, C = 1 / (r N).

    With a share of the labels (1% and 10% in SimCLR, arXiv:2002.05709, section 4), only images of the share are used,
    and a fifth of each class of the share is validation. If no class has an image to spare for that, the strongest r is
    used.

    Args:
        regularisations: Values of r to choose from.
        max_iterations: Largest number of L-BFGS iterations per fit; a fit that has not converged by then warns.
        labels: Share of the labels of train and validation together, in (0, 1]: random within each class, at least one
            image per class, the same images as for fine-tuning and in every run.
        dataset: A dataset other than the run's, see `Labelled`.
        features: Of a vision transformer: ``cls``, ``mean`` of the patches, or ``cls_mean``, whatever its own features
            are; null for the encoder's own. The name of the score says which.
        layers: Last blocks whose features are taken, one after the other; null for the last one.
    """

    def __init__(
        self,
        regularisations: Sequence[float],
        max_iterations: int,
        labels: float,
        dataset: Splits | None = None,
        features: Pool | None = None,
        layers: int | None = None,
    ) -> None:
        reading = Reading(features, layers)
        super().__init__(by_share(f"linear_probe{reading.name}", labels), dataset, labels, reading)
        if not regularisations or not all(0 < value < math.inf for value in regularisations):
            raise InvalidValue(f"eval.{self.option}.regularisations={list(regularisations)}; give positive numbers")
        if max_iterations < 1:
            raise InvalidValue(f"eval.{self.option}.max_iterations={max_iterations}; give at least 1, say 500")
        self.regularisations = sorted(regularisations, reverse=True)
        self.max_iterations = max_iterations

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """``linear_probe/top1`` and the chosen ``linear_probe/regularisation``.

        With 1% of the labels, ``linear_probe_1pct/...``; for its own dataset, ``cifar10/linear_probe/...``; for the
        mean of patches, ``linear_probe_patches/...``. Nothing for an encoder without such features, as a run's baseline
        ``raw_pixels``.
        """
        encoder = algorithm.eval_encoder()
        if not self.reading.fits(encoder):
            return {}
        with evaluating(algorithm):
            sets = gallery_and_queries(encoder, self.judged(splits), device, self.labels, self.reading)
            chosen, start = self.choose(sets.gallery, sets.gallery_labels, sets.validation, sets.n_classes)
            gallery, queries = standardise(sets.gallery, sets.queries)
            regression = Regression(gallery, sets.gallery_labels, sets.n_classes, self.max_iterations)
            weights = regression.fit(chosen, start)
            right = _right(weights, queries, sets.query_labels)
        keep(self.key("top1"), right)
        return {self.key("top1"): right.float().mean().item(), self.key("regularisation"): chosen}

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """``linear_probe/top1`` and ``linear_probe/regularisation``."""
        return [self.key("top1"), self.key("regularisation")]

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Raises ValueError for everything that `Labelled.checked` refuses."""
        self.checked(algorithm, splits)

    def seconds(self, splits: Splits, encoder: Encoder) -> float:
        """Estimated duration on this CPU for features of this encoder, from timing the loss on a few rows."""
        width: int = self.reading.of(encoder).out_features  # type: ignore[assignment]
        found = gallery_indices(self.judged(splits), self.labels)
        n, n_classes = len(found.gallery), self.judged(splits).test.n_classes
        rows = min(n, TIMED)
        regression = Regression(torch.eye(rows, width), found.gallery_labels[:rows], n_classes, 1)
        weights, taken = torch.zeros(regression.shape), []
        for _ in range(2):  # the first is slow
            began = time.perf_counter()
            regression.loss(weights, 1.0)
            taken.append(time.perf_counter() - began)
        return EVALUATIONS * min(taken) * n / rows

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """Solver, grid, gallery, validation and queries."""
        solver = f"L-BFGS, at most {self.max_iterations} iterations, largest gradient entry {TOLERANCE}"
        grid = {"solver": solver, "regularisations": self.regularisations, "chosen_on": "validation"}
        return {"features": "standardised by the gallery", **grid, **self.described(splits)}

    def choose(
        self, gallery: Tensor, labels: Tensor, validation: Tensor, n_classes: int
    ) -> tuple[float, Tensor | None]:
        """The regularisation that is best on the gallery rows (N, D) marked by validation (N,), and its weights."""
        if not validation.any():
            return self.regularisations[0], None
        train, held_out = standardise(gallery[~validation], gallery[validation])
        regression = Regression(train, labels[~validation], n_classes, self.max_iterations)
        best, chosen, weights, found = -1.0, 0.0, None, torch.empty(0)
        for regularisation in self.regularisations:
            weights = regression.fit(regularisation, weights)
            accuracy = _accuracy(weights, held_out, labels[validation])
            if accuracy > best:
                best, chosen, found = accuracy, regularisation, weights
        return chosen, found


def _accuracy(weights: Tensor, features: Tensor, labels: Tensor) -> float:
    return _right(weights, features, labels).float().mean().item()


def _right(weights: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    return logits(weights, features).argmax(dim=1) == labels
