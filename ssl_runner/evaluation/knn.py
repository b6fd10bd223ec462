"""Weighted k-nearest-neighbour classification of frozen features."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.answers import keep
from ssl_runner.evaluation.features import gallery_and_queries
from ssl_runner.evaluation.gallery import by_share
from ssl_runner.evaluation.labelled import Labelled
from ssl_runner.evaluation.reading import Reading
from ssl_runner.models.features import evaluating
from ssl_runner.models.vit import Pool

# Largest number of similarities in memory at once: 64 MiB in float32.
CHUNK = 2**24
# Similarities whose maximum is looked at before themselves.
GROUP = 16
# Votes are summed as integers of this resolution, so that the order does not matter and ties are exact.
RESOLUTION = 2**40


class KNN(Labelled):
    """Accuracy of a weighted kNN vote (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    Features are L2-normalised. Each of the k nearest images of the gallery, with cosine similarity s, votes for its
    class with weight exp(s / T). Ties between neighbours go to the first in the gallery, ties between classes to the
    lowest class.

    Args:
        k: Number of neighbours, at most the number of images in the gallery.
        temperature: T.
        labels: Share of the gallery that votes, in (0, 1]: the same images as for the linear probe.
        dataset: A dataset other than the run's, see `Labelled`.
        features: Of a vision transformer: ``cls``, ``mean`` of the patches, or ``cls_mean``, whatever its own features
            are; null for the encoder's own. The name of the score says which.
        layers: Last blocks whose features are taken, one after the other; null for the last one.
    """

    def __init__(
        self,
        k: int,
        temperature: float,
        dataset: Splits | None = None,
        features: Pool | None = None,
        layers: int | None = None,
        labels: float = 1.0,
    ) -> None:
        reading = Reading(features, layers)
        super().__init__(by_share(f"knn{reading.name}", labels), dataset, labels, reading)
        if k < 1 or not temperature > 0:
            raise InvalidValue(f"k={k}, temperature={temperature}; eval.{self.option} needs k >= 1 and temperature > 0")
        self.k = k
        self.temperature = temperature

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """``knn/top1``; for its own dataset, ``cifar10/knn/top1``; for the mean of patches, ``knn_patches/top1``; with
        10% of the labels, ``knn_10pct/top1``.

        Nothing for an encoder without such features, as a run's baseline ``raw_pixels``.
        """
        encoder = algorithm.eval_encoder()
        if not self.reading.fits(encoder):
            return {}
        with evaluating(algorithm):
            sets = gallery_and_queries(encoder, self.judged(splits), device, self.labels, self.reading)
            found = self.predict(sets.gallery, sets.gallery_labels, sets.queries, sets.n_classes)
        right = found == sets.query_labels
        keep(self.key("top1"), right)
        return {self.key("top1"): right.float().mean().item()}

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """``knn/top1``."""
        return [self.key("top1")]

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Raises ValueError for everything that `Labelled.checked` refuses, and for fewer than k gallery images."""
        found = self.checked(algorithm, splits)
        n, names = len(found.gallery), " and ".join(part.name for part in found.parts)
        if self.k > n:
            raise InvalidValue(
                f"eval.{self.option}.k={self.k}, but there are only {n:,} images in {names}; "
                f"set eval.{self.option}.k={min(20, math.isqrt(n))}"
            )

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """k, temperature, gallery and queries."""
        return {"k": self.k, "temperature": self.temperature, **self.described(splits)}

    def predict(self, gallery: Tensor, gallery_labels: Tensor, queries: Tensor, n_classes: int) -> Tensor:
        """Classes int64 (M,) of queries (M, D), given a gallery (N, D) with labels (N,); neither is normalised.

        In a gallery of fewer than k images, which the diagnostics may have, all vote.
        """
        gallery, queries = F.normalize(gallery, dim=1), F.normalize(queries, dim=1)
        rows = max(1, CHUNK // len(gallery))
        # one place for all products: fresh pages for each would take a third of its time
        place, found = queries.new_empty(min(rows, len(queries)), len(gallery)), []
        for chunk in queries.split(rows):
            similarity = torch.mm(chunk, gallery.T, out=place[: len(chunk)])
            found.append(self._votes(similarity, gallery_labels, n_classes).argmax(dim=1))
        return torch.cat(found)

    def _votes(self, similarity: Tensor, gallery_labels: Tensor, n_classes: int) -> Tensor:
        """The votes, int64 (M, n_classes), up to a factor for each row."""
        indices = nearest(similarity, min(self.k, similarity.shape[1]))
        values = similarity.gather(1, indices)
        weights = ((values - values.amax(dim=1, keepdim=True)) / self.temperature).exp()  # in (0, 1]
        votes = torch.zeros(len(similarity), n_classes, dtype=torch.int64, device=similarity.device)
        return votes.scatter_add_(1, gallery_labels[indices], (weights * RESOLUTION).long())


def nearest(similarity: Tensor, k: int) -> Tensor:
    """Positions int64 (M, k) of the k largest values in each row (M, N), in any order; the first ones of ties."""
    n = similarity.shape[1]
    values, indices = largest(similarity, min(k + 1, n))
    if k == n:
        return indices
    # topk may take any of the values that tie with the last one it takes.
    tied = values[:, k - 1] == values[:, k]
    indices = indices[:, :k].clone()
    if tied.any():
        rows, last = similarity[tied], values[tied, k - 1, None]
        above, equal = rows > last, rows == last
        room = k - above.sum(dim=1, keepdim=True)
        kept = above | (equal & (equal.cumsum(dim=1) <= room))
        indices[tied] = kept.nonzero()[:, 1].view(-1, k)
    return indices


def largest(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values in each row (M, N), sorted, and their positions; any ones of ties.

    What `topk` returns, in up to a third of its time: they lie in the groups that have the largest maxima, and only
    these groups are searched.
    """
    rows, n = similarity.shape
    width = n // GROUP
    if width < 4 * count:
        return similarity.topk(count)
    maxima = similarity[:, : width * GROUP].unflatten(1, (GROUP, width)).amax(dim=1)
    groups = maxima.topk(count, sorted=False).indices
    members = torch.arange(0, width * GROUP, width, device=similarity.device)
    rest = torch.arange(width * GROUP, n, device=similarity.device)
    candidates = torch.cat([(groups[:, None] + members[:, None]).flatten(1), rest.expand(rows, -1)], dim=1)
    values, places = similarity.gather(1, candidates).topk(count)
    return values, candidates.gather(1, places)
