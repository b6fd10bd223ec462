"""Diagnostics of training: a few metrics on a small fixed sample, cheap enough to log during training."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Splits
from ssl_runner.evaluation import negatives
from ssl_runner.evaluation.knn import KNN
from ssl_runner.evaluation.watched import groups, knn_sample, pairs
from ssl_runner.losses.negatives import Negatives
from ssl_runner.models.features import evaluating

N_BRANCH = 64  # images whose embeddings by student and teacher are looked at
# k = 20 in a small gallery shows a trend, not a result; for results, use eval.knn
NEIGHBOURS = KNN(k=20, temperature=0.1)
# threshold of `spread` below which all images have almost the same embedding
COLLAPSED = 0.05
# steps before a collapse can be judged: the running statistics of batch normalisation start far from their true values
SETTLED = 20

Metrics = dict[str, float]


@dataclass(frozen=True)
class Diagnostics:
    """Metrics of a fixed set of images, in evaluation mode. No test image is among them.

    The embedding is what the loss compares (`Algorithm.embedding`); the feature is the output of `eval_encoder`.

    Attributes:
        first: (P, C, H, W). Row i and row i of ``second`` are a positive pair: two views of a training image or, for
            episodes, two images of a class. Without labels, they are the support and query of a pseudo-task.
        second: (P, C, H, W).
        gallery: uint8 (N, C, H, W) with gallery_labels, for the online kNN, or None.
        queries: uint8 (M, C, H, W) with query_labels, from the validation split, or None.
        labels: int64 (P,) of the pairs, or None; they only evaluate the negatives and do not affect training.
        groups: (G, M, C, H, W), M views of each of G training images or, for episodes, M images of each of G classes;
            None if there are none.
    """

    first: Tensor
    second: Tensor
    gallery: Tensor | None = None
    gallery_labels: Tensor | None = None
    queries: Tensor | None = None
    query_labels: Tensor | None = None
    labels: Tensor | None = None
    groups: Tensor | None = None

    @classmethod
    def of(cls, splits: Splits, batching: Batching, device: torch.device) -> "Diagnostics":
        """The diagnostics of a run whose batching is bound to the data."""
        first, second, labels = pairs(batching, splits.train)
        tensors = (tensor.to(device) for tensor in (first, second, *knn_sample(splits)))
        grouped = groups(batching, splits.train)
        return cls(
            *tensors,
            labels=None if labels is None else labels.to(device),
            groups=None if grouped is None else grouped.to(device),
        )

    def names(self, algorithm: Algorithm) -> list[str]:
        """Names of the metrics that these diagnostics compute, without those of negatives."""
        names = ["alignment", "uniformity", "rankme", "embedding_std", "feature_std"]
        names += [f"{name}_std" for name in algorithm.branches()]
        names += [] if self.groups is None else ["lidar"]
        return names if self.queries is None else [*names, "online_knn"]

    def __call__(self, algorithm: Algorithm) -> Metrics:
        """Metrics by name.

        ``alignment`` and ``uniformity`` of L2-normalised embeddings (Wang and Isola 2020, arXiv:2005.10242), ``rankme``
        of embeddings (Garrido et al. 2023, arXiv:2210.02885), ``embedding_std`` and ``feature_std`` (`spread`),
        ``student_std`` and ``teacher_std`` of the algorithm's `branches`, `lidar` of the groups' embeddings, and
        ``online_knn``, top-1 in [0, 1], if there are labels and a validation split. If the loss has negatives, the
        metrics of `ssl_runner.evaluation.negatives.figures` are added.
        """
        encoder = algorithm.eval_encoder()
        with evaluating(algorithm):
            embedded = self._embedded(algorithm)
            raw = embedded[0]
            first, second = F.normalize(embedded, dim=2)
            features = encoder(self.first if self.gallery is None else self.gallery).flatten(1).float()
            metrics = {
                "alignment": alignment(first, second),
                "uniformity": uniformity(first),
                "rankme": rankme(raw),
                "embedding_std": spread(first),
                "feature_std": spread(F.normalize(features, dim=1)),
            }
            for name, branch in algorithm.branches().items():
                metrics[f"{name}_std"] = spread(F.normalize(branch(self.first[:N_BRANCH]).flatten(1).float(), dim=1))
            if self.groups is not None:
                found = algorithm.embedding(self.groups.flatten(0, 1)).flatten(1)
                metrics["lidar"] = lidar(found.unflatten(0, self.groups.shape[:2]))
            if self.queries is not None and self.gallery_labels is not None:
                queries = encoder(self.queries).flatten(1).float()
                found = NEIGHBOURS.predict(features, self.gallery_labels, queries, int(self.gallery_labels.max()) + 1)
                metrics["online_knn"] = (found == self.query_labels).float().mean()
            mined = self._negatives(algorithm, embedded)
            if mined is not None:
                metrics |= negatives.figures(mined, self.labels)
        return {name: float(value) for name, value in metrics.items()}

    def negatives(self, algorithm: Algorithm) -> Negatives | None:
        """The negatives of each view in the algorithm's loss, first views first. None if the loss does not say."""
        if not negatives.available(algorithm):
            return None
        with evaluating(algorithm):
            return self._negatives(algorithm, self._embedded(algorithm))

    def _embedded(self, algorithm: Algorithm) -> Tensor:
        """Embeddings (2, P, E) of the pairs."""
        return torch.stack([algorithm.embedding(images).flatten(1).float() for images in (self.first, self.second)])

    def _negatives(self, algorithm: Algorithm, embedded: Tensor) -> Negatives | None:
        if not negatives.available(algorithm):
            return None
        return negatives.negatives(algorithm, torch.stack([self.first, self.second]), embedded, self.labels)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of positive pairs, both (P, D) on the unit sphere; from 0 (equal) to 4 (opposite)."""
    return (first - second).square().sum(dim=1).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    """log mean exp(-2 |x - y|^2) over pairs of rows of (P, D) on the unit sphere; from 0 (one point) to about -4."""
    return torch.pdist(embeddings).square().mul(-2).exp().mean().log()


def rankme(embeddings: Tensor) -> Tensor:
    """exp of the entropy of the singular values of (P, D); from 1 (a line) to min(P, D) (all directions equal)."""
    if not embeddings.isfinite().all():  # torch's decomposition would raise
        return embeddings.new_tensor(torch.nan)
    values = torch.linalg.svdvals(embeddings.float())
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + 1e-7
    return (-(shares * shares.log()).sum()).exp()


def lidar(embeddings: Tensor, delta: float = 1e-4, epsilon: float = 1e-7) -> Tensor:
    """Effective rank of what tells groups apart, for embeddings (G, M, D); from 1 to min(G - 1, D).

    exp of the entropy of the eigenvalues of S_w^(-1/2) S_b S_w^(-1/2), where S_b is the covariance of the groups'
    means and S_w that within groups plus ``delta`` on its diagonal (Thilak et al. 2023, arXiv:2312.04000, sec. 4).
    ``epsilon`` is added to each eigenvalue's share.
    """
    if not embeddings.isfinite().all():
        return embeddings.new_tensor(torch.nan)
    within, between = _deviations(embeddings.cpu().double())
    spectrum, axes = torch.linalg.eigh(within.T @ within / len(within))
    whitened = between @ axes * (spectrum.clamp_min(0) + delta).rsqrt()
    values = torch.linalg.svdvals(whitened).square()
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + epsilon
    return (-(shares * shares.log()).sum()).exp()


def _deviations(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings minus their group's mean (G * M, d), and these means minus that of all (G, d), d at most D.

    Where D is large, they are in an orthonormal basis of the space that they span, which keeps all lengths and angles.
    """
    groups, members, width = embeddings.shape
    flat = embeddings.flatten(0, 1)
    flat = flat - flat.mean(dim=0)
    if width > groups * members:
        flat = torch.linalg.qr(flat.T, mode="r").R.T
    means = flat.unflatten(0, (groups, members)).mean(dim=1)
    return flat - means.repeat_interleave(members, dim=0), means


def spread(embeddings: Tensor) -> Tensor:
    """Mean standard deviation of the D coordinates of (P, D) on the unit sphere, times sqrt(D).

    Near 1 if directions are spread evenly, 0 if all images share one direction (Chen and He 2021, arXiv:2011.10566,
    sec. 4.1).
    """
    return embeddings.std(dim=0).mean() * embeddings.shape[1] ** 0.5
