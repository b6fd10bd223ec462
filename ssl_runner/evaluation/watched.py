"""The small fixed samples of images that diagnostics watch. No test image is among them."""

import torch
from torch import Tensor

from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batches import Episodes, Views
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.runtime import randomness

N_PAIRS, N_BANK, N_QUERIES, N_CLASSES = 256, 256, 256, 20
N_GROUPS, N_MEMBERS = 64, 4  # for a trend of LiDAR, whose paper takes many more (arXiv:2312.04000)
SEED = 0


def pairs(batching: Batching, train: Dataset) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two tensors (P, C, H, W) of training images, and the labels of their rows or None.

    Rows are two views of an image or, for episodes and batches with one view, two images of a class.
    """
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


def groups(batching: Batching, train: Dataset) -> Tensor | None:
    """Images (G, M, C, H, W): of a class for episodes with labels, else views of an image.

    A batching with one view, masked or not, makes further ones by its augmentation. None without an augmentation.
    """
    if batching.batch_type is Episodes and not batching.makes_labels and train.labels is not None:
        return _members(train)
    augmentation: Augmentation | None = getattr(batching, "augmentation", None)
    if augmentation is None or not augmentation.columns:
        return None
    images = train.images[_draw(train, "train/diagnostics/groups", N_GROUPS)]
    draws = randomness.uniforms(SEED, "train/diagnostics/views", 0, N_MEMBERS * len(images), augmentation.columns)
    views = augmentation(images.repeat(N_MEMBERS, 1, 1, 1), torch.from_numpy(draws))
    return views.unflatten(0, (N_MEMBERS, -1)).transpose(0, 1).contiguous()


def _members(train: Dataset) -> Tensor | None:
    """M images of each of at most G classes that have so many; None if fewer than two have."""
    assert train.labels is not None
    order = _draw(train, "train/diagnostics/groups", len(train))
    order = order[train.labels[order].argsort(stable=True)]
    counts = train.labels.bincount()
    firsts = (counts.cumsum(0) - counts)[counts >= N_MEMBERS]
    if len(firsts) < 2:
        return None
    chosen = firsts[torch.from_numpy(randomness.permutation(SEED, "train/diagnostics/classes", 0, len(firsts)))]
    rows = order[chosen[:N_GROUPS, None] + torch.arange(N_MEMBERS)]
    return train.images[rows.flatten()].unflatten(0, rows.shape)


def knn_sample(splits: Splits) -> tuple[Tensor, ...]:
    """Gallery, its labels, queries of the validation split, and theirs; empty if labels or validation are missing."""
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
