"""Diagnostics of training: a few metrics on a small fixed sample, cheap enough to log during training."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batches import Episodes, Views
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.evaluation import negatives
from ssl_runner.evaluation.knn import KNN
from ssl_runner.losses.negatives import Negatives
from ssl_runner.models.features import evaluating
from ssl_runner.runtime import randomness

N_PAIRS, N_BANK, N_QUERIES, N_CLASSES = 256, 256, 256, 20
SEED = 0
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
    """

    first: Tensor
    second: Tensor
    gallery: Tensor | None = None
    gallery_labels: Tensor | None = None
    queries: Tensor | None = None
    query_labels: Tensor | None = None
    labels: Tensor | None = None

    @classmethod
    def of(cls, splits: Splits, batching: Batching, device: torch.device) -> "Diagnostics":
        """The diagnostics of a run whose batching is bound to the data."""
        first, second, labels = _pairs(batching, splits.train)
        tensors = (tensor.to(device) for tensor in (first, second, *_knn_sample(splits)))
        return cls(*tensors, labels=None if labels is None else labels.to(device))

    @property
    def names(self) -> list[str]:
        """Names of the metrics that these diagnostics compute for every algorithm."""
        names = ["alignment", "uniformity", "rankme", "embedding_std", "feature_std"]
        return names if self.queries is None else [*names, "online_knn"]

    def __call__(self, algorithm: Algorithm) -> Metrics:
        """Metrics by name.

        ``alignment`` and ``uniformity`` of L2-normalised embeddings (Wang and Isola 2020, arXiv:2005.10242), ``rankme``
        of embeddings (Garrido et al. 2023, arXiv:2210.02885), ``embedding_std`` and ``feature_std`` (`spread`), and
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


def spread(embeddings: Tensor) -> Tensor:
    """Mean standard deviation of the D coordinates of (P, D) on the unit sphere, times sqrt(D).

    Near 1 if directions are spread evenly, 0 if all images share one direction (Chen and He 2021, arXiv:2011.10566,
    sec. 4.1).
    """
    return embeddings.std(dim=0).mean() * embeddings.shape[1] ** 0.5


def _pairs(batching: Batching, train: Dataset) -> tuple[Tensor, Tensor, Tensor | None]:
    """The pairs of images, and their labels or None."""
    batch = batching.batch(0)
    if isinstance(batch, Views) and len(batch.crops[0]) > 1:
        first, second = batch.crops[0][:2, :N_PAIRS]
        return first, second, None if batch.labels is None else batch.labels[:N_PAIRS]
    chosen = _draw(train, "train/diagnostics/pairs", 2 * N_PAIRS)
    if train.labels is not None:  # pair images of the same class
        chosen = chosen[train.labels[chosen].argsort(stable=True)]
        same = train.labels[chosen[:-1]] == train.labels[chosen[1:]]
        one, other = chosen[:-1][same][:N_PAIRS], chosen[1:][same][:N_PAIRS]
        return train.images[one], train.images[other], train.labels[one]
    if isinstance(batch, Episodes):  # pseudo-episodes without labels: a class is an image
        support, query = (
            images.unflatten(1, (batch.n_way, -1))[:, :, 0].flatten(0, 1)[:N_PAIRS]
            for images in (batch.support_images, batch.query_images)
        )
        return support, query, None
    images = train.images[chosen[:N_PAIRS]]
    return images, images, None


def _knn_sample(splits: Splits) -> tuple[Tensor, ...]:
    validation = splits.validation
    if validation is None or validation.labels is None or splits.train.labels is None:
        return ()
    if splits.by == "images":
        if splits.train.class_names != validation.class_names:  # for example clusters
            return ()
        source, gallery = splits.train, _draw(splits.train, "train/diagnostics/gallery", N_BANK)
        queries = _draw(validation, "train/diagnostics/queries", N_QUERIES)
    else:  # classes that were not trained on; only a few, so that each has several images
        source, drawn = validation, _draw(validation, "train/diagnostics/queries", len(validation))
        drawn = drawn[validation.labels[drawn] < N_CLASSES][: N_BANK + N_QUERIES]
        n_bank = len(drawn) * N_BANK // (N_BANK + N_QUERIES)
        gallery, queries = drawn[:n_bank], drawn[n_bank:]
    assert source.labels is not None
    return source.images[gallery], source.labels[gallery], validation.images[queries], validation.labels[queries]


def _draw(dataset: Dataset, stream: str, n: int) -> Tensor:
    return torch.from_numpy(randomness.permutation(SEED, stream, 0, len(dataset))[:n])
