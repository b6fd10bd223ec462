"""Clusters of an encoder's features instead of classes."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Dataset, Images, Splits, held
from ssl_runner.data.sources.partitions import kept_partition
from ssl_runner.data.sources.source import content_hash
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.errors import DataError, NotDownloaded
from ssl_runner.models import saving
from ssl_runner.models.features import features
from ssl_runner.models.network import Encoder
from ssl_runner.runs import run_folder
from ssl_runner.runtime import randomness
from ssl_runner.runtime.launch_environment import how_to_go_on


def clustered(
    dataset: Splits, encoder: PathText | None, partitions: int, clusters: int, min_images: int, seed: int
) -> Splits:
    """CACTUs (Hsu et al. 2019, arXiv:1810.02334, sec. 2.2 and alg. 1): a dataset whose training classes are clusters.

    K-means runs on the features of the training images once for each partition, each time in a random diagonal metric
    (`partition`). A class is a cluster and its domain is the partition, so a task stays within one partition. Labels of
    the training images are never used. Validation and test are those of the dataset, so any episodic method trains on
    clusters and is evaluated on true classes.

    Deviations: features are L2-normalised, since they are compared like that everywhere here; k-means uses
    mini-batches; a partition with many small clusters is not repeated, and small clusters are left out.

    Images are repeated for each partition: Omniglot's 88,000 at 28 x 28 take 69 MB per partition. On one core, features
    take a minute or two and k-means about 7 s per partition. This happens once, since clusters are kept in the cache
    folder.

    Args:
        dataset: A dataset with images to cluster, and labelled images for evaluation.
        encoder: Folder of a finished run (or the encoder.safetensors in it) whose encoder computes the features. If
            that run saw labels, this dataset has seen them too. None to cluster the pixels themselves, which finds
            shapes in the same place, far from characters.
        partitions: Number of k-means runs.
        clusters: Number of clusters in each partition.
        min_images: Images that a cluster must have to be a class: what a task needs, k_shot + n_query.
        seed: Seed of the metrics and of k-means; not the run's seed.

    Raises:
        DataError: There is no such encoder, it takes other images, or too few clusters are left.
    """
    for name, value, least in (("partitions", partitions, 1), ("clusters", clusters, 2), ("min_images", min_images, 1)):
        if value < least:
            raise DataError(f"dataset.{name}={value}: give at least {least}.")
    randomness.check_seed(seed, "dataset.seed")
    train = dataset.train
    if clusters > len(train):
        raise DataError(f"dataset.clusters={clusters}, but {train.name} has {len(train)} images; lower it.")
    source, weights, seen = (None, "", ()) if encoder is None else read_encoder(encoder, train)
    made_of = (_content(train), weights)  # labels are not used
    try:
        assigned = kept_partition(lambda: points(train, source), partitions, clusters, seed, *made_of)
    except NotDownloaded:  # blank images, in as many clusters as could be left
        train = replace(train, images=torch.zeros_like(train.images[:1]).expand(train.images.shape))
        assigned = (torch.arange(len(train)) % max(1, min(clusters, len(train) // min_images))).expand(partitions, -1)
    kind = "pixels" if source is None else "features"
    classes = as_classes(train, assigned, min_images, f"clustered by {kind}", *made_of)
    return replace(dataset, train=replace(classes, seen=tuple(dict.fromkeys((train.source, *train.seen, *seen)))))


def _remedy(run: Path) -> str:
    try:
        return run_folder.remedy(run, run_folder.status(run))
    except (OSError, ValueError):  # it was stopped before it could write its status
        return how_to_go_on(run)


def read_encoder(run: str, train: Dataset) -> tuple[Encoder, str, tuple[str, ...]]:
    """The encoder of a run, the hash of its file, and the names of the datasets it was trained on.

    Raises:
        DataError: It does not exist, is not finished, or takes other images.
    """
    path, who = absolute(run), f"dataset.encoder={run}"
    file = path / saving.FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file() and (path / "config.yaml").is_file():
        raise DataError(f"{who}: that run has no {saving.FILE} yet, because it is not finished; {_remedy(path)}")
    try:
        encoder = saving.load_encoder(file)
    except FileNotFoundError as error:
        raise DataError(f"{who}: {error}") from None
    if encoder.input_shape != tuple(train.images.shape[1:]):
        wanted, given = ("x".join(map(str, shape)) for shape in (encoder.input_shape, train.images.shape[1:]))
        raise DataError(
            f"{who} takes images of {wanted}, but those of {train.name} are {given}; set dataset.dataset.size and "
            "dataset.dataset.channels, or choose another run"
        )
    seen = saving.read_metadata(file).get("sources")
    if seen is None:
        raise DataError(f"{who} does not say what it was trained on, because an earlier version wrote it; run it again")
    # null: it began from weights that do not say
    return encoder, hashlib.sha256(file.read_bytes()).hexdigest(), tuple(json.loads(seen) or ())


def points(train: Dataset, encoder: Encoder | None) -> np.ndarray:
    """The points to cluster, float32 (N, D): pixels in [0, 1] or L2-normalised features."""
    if encoder is None:
        return held(train.images, "clustering of pixels").flatten(1).numpy().astype(np.float32) / 255
    return F.normalize(features(encoder, train.images, torch.device("cpu")), dim=1).numpy()


def as_classes(train: Dataset, clusters: Tensor, min_images: int, how: str, *made_of: str) -> Dataset:
    """The images of all partitions, one after the other, with the clusters that are large enough as classes.

    Args:
        train: N images.
        clusters: int64 (partitions, N).
        how: A part of the dataset's name.
        made_of: Hashes of everything that the clusters depend on.

    Raises:
        DataError: Fewer than two clusters of a partition are large enough.
    """
    indices, labels, names, domains = [], [], [], []
    for number, own in enumerate(clusters):
        sizes = own.bincount()
        kept = sizes >= min_images
        n_kept = int(kept.sum())
        if n_kept < 2:
            raise DataError(
                f"{n_kept} of {len(sizes)} clusters of {train.name} have dataset.min_images={min_images} images, but a "
                "task needs two such clusters; lower it, or dataset.clusters."
            )
        here = kept[own].nonzero().squeeze(1)
        indices.append(here)
        labels.append((kept.cumsum(0) - 1 + len(names))[own[here]])
        names += [f"{number}/{cluster}" for cluster in kept.nonzero().squeeze(1).tolist()]
        domains += [f"partition {number}"] * n_kept
    wanted, labelled = torch.cat(indices), torch.cat(labels)
    digest = hashlib.sha256(repr((made_of, names)).encode())
    digest.update(wanted.numpy().tobytes() + labelled.numpy().tobytes())
    source, _, part = train.name.rpartition("/")
    return Dataset(
        name=f"{source or part} {how}/{part}",
        images=_taken(train.images, wanted),
        labels=labelled,
        class_names=tuple(names),
        class_groups=None,
        fingerprint=digest.hexdigest()[:16],
        class_domains=tuple(domains),
    )


def _content(dataset: Dataset) -> str:
    if isinstance(dataset.images, StoredImages):
        return dataset.fingerprint
    return "blank" if dataset.images.stride(0) == 0 else content_hash(dataset.images.numpy())


def _taken(images: Images, indices: Tensor) -> Images:
    if isinstance(images, StoredImages):
        return images.at(indices)
    if images.stride(0) == 0:  # blank images without memory
        return images[:1].expand(len(indices), -1, -1, -1)
    return images.index_select(0, indices)
