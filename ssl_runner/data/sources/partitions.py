"""K-means on features, several times in different metrics, kept between runs."""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_runner.data.sources.cache import cache_folder
from ssl_runner.runtime import randomness, versions
from ssl_runner.runtime.atomic_write import write_atomically
from ssl_runner.runtime.file_lock import locked
from ssl_runner.runtime.no_download import refuse_download

BATCH = 4096  # images in a step of k-means


def partition(features: np.ndarray, partitions: int, clusters: int, seed: int) -> Tensor:
    """Clusters int64 (partitions, N) of features float32 (N, D), each partition by k-means in its own metric.

    The first partition uses the features as they are; each further one multiplies their coordinates by uniform numbers
    in [0, 1). K-means uses mini-batches (Sculley 2010) and a single k-means++ start. It runs on one thread, so that
    clusters do not depend on the number of threads.
    """
    from sklearn.cluster import MiniBatchKMeans  # takes a second to import
    from threadpoolctl import threadpool_limits

    labels = []
    with threadpool_limits(1):
        for number in range(partitions):
            scales = randomness.uniforms(seed, "clusters/scales", number, 1, features.shape[1])
            scaled = features * scales if number else features
            start = randomness.number(seed, "clusters/k-means", number) % 2**32
            kmeans = MiniBatchKMeans(clusters, batch_size=BATCH, n_init=1, random_state=start)  # pyright: ignore[reportArgumentType]
            labels.append(torch.from_numpy(kmeans.fit(scaled).labels_.astype(np.int64)))
    return torch.stack(labels)


def kept_partition(
    features: Callable[[], np.ndarray], partitions: int, clusters: int, seed: int, *made_of: str
) -> Tensor:
    """The result of `partition`, read from the user's cache folder if it is there.

    Args:
        features: Computes the features; only called if the result is not in the cache.
        made_of: Hashes of everything that the features depend on.

    Raises:
        NotDownloaded: It would have to be computed, inside `no_download`.
    """
    key = repr((made_of, partitions, clusters, seed, versions.versions().get("scikit-learn")))
    entry = cache_folder() / f"clusters-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    stored = _read(entry)
    if stored is not None:
        return stored
    refuse_download("clusters")
    try:
        with locked(entry.with_suffix(".lock"), keep=False):
            stored = _read(entry)  # another process may have written it
            if stored is None:
                stored = partition(features(), partitions, clusters, seed)
                write_atomically(entry, lambda path: save_file({"clusters": stored}, path))
        return stored
    except OSError as error:
        warnings.warn(
            f"clusters are not cached: {error}. Set SSL_RUNNER_CACHE to a writable folder with free space.",
            RuntimeWarning,
            stacklevel=2,
        )
    return stored if stored is not None else partition(features(), partitions, clusters, seed)


def _read(entry: Path) -> Tensor | None:
    """The content of an entry, or None if there is no complete one."""
    try:
        return load_file(entry)["clusters"]
    except (OSError, SafetensorError, KeyError):
        return None
