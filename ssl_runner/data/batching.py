"""From a dataset to batches, each a function of (seed, step) alone: on resume there is nothing to restore."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ssl_runner import distributed, randomness
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batches import Episodes, Views
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.tasks import TaskSampler


class Batching(ABC):
    """What every batching has.

    Attributes:
        batch_type: What `batch` returns.
        images_per_step: Images that a step sends through the network.
        steps_per_epoch: None where an epoch has no meaning.
        n_outputs: Width of a classifying head on these batches, None without classes.
        n_views: Views of an image in a batch.
    """

    batch_type: ClassVar[type[Views] | type[Episodes]]
    images_per_step: int
    steps_per_epoch: int | None = None
    n_outputs: int | None = None
    n_views: int = 1

    @abstractmethod
    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        """Draw from this dataset from now on.

        Raises:
            ValueError: The dataset is too small.
        """

    @abstractmethod
    def batch(self, step: int) -> Views | Episodes:
        """The batch of a step, on the device."""


class ViewBatching(Batching):
    """Augmented views of images, in a new order every epoch; the last, smaller batch of an epoch is dropped.

    Args:
        augmentation: From uint8 images and draws to float views in [0, 1].
        batch_size: Images in a batch, of which each gives all its views.
        views: Views of an image.
        second_augmentation: Of all views but the first (BYOL, Barlow Twins, DINO), or None for the same.
    """

    batch_type = Views

    def __init__(
        self,
        augmentation: Augmentation,
        batch_size: int,
        views: int,
        second_augmentation: Augmentation | None = None,
    ) -> None:
        if batch_size < 1 or views < 1:
            raise ValueError(f"batch_size={batch_size}, views={views}; both must be at least 1")
        if second_augmentation is not None and views == 1:
            raise ValueError("second_augmentation is of the views after the first, but views=1; set it to null")
        self.augmentation = augmentation
        self.second_augmentation = second_augmentation or augmentation
        self.batch_size = batch_size
        self.n_views = views
        self.images_per_step = batch_size * views

    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        self.n_outputs = dataset.n_classes if dataset.labels is not None else None
        if len(dataset) < self.batch_size:
            raise ValueError(
                f"batch_size={self.batch_size}, but {dataset.name} has {len(dataset)} images; lower batching.batch_size"
            )
        distributed.rows(self.batch_size, "batching.batch_size")  # refused where processes cannot share them
        self.seed, self.device = seed, device
        self.images = on_device(dataset.images, device)
        self.labels = dataset.labels
        self.steps_per_epoch = len(dataset) // self.batch_size
        self._epoch, self._order = -1, torch.empty(0)

    def batch(self, step: int) -> Views:
        assert self.steps_per_epoch is not None
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = randomness.permutation(self.seed, "order", epoch, len(self.images))
            self._epoch, self._order = epoch, torch.from_numpy(order)
        indices = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        indices = indices[distributed.rows(self.batch_size, "batching.batch_size")]
        columns = max(self.augmentation.columns, self.second_augmentation.columns)
        draws = own_draws(self.seed, "augmentation", step, self.n_views, self.batch_size, columns)
        images = self.images_at(indices).repeat(self.n_views, 1, 1, 1)
        crops = self._augment(images, draws).unflatten(0, (self.n_views, len(indices)))
        labels = None if self.labels is None else self.labels[indices].to(self.device)
        return Views(crops=(crops,), labels=labels, indices=indices.to(self.device))

    def images_at(self, indices: Tensor) -> Tensor:
        """uint8 (M, C, H, W) on the device, of places (M,) in the dataset."""
        return gather(self.images, indices, self.device)

    def _augment(self, images: Tensor, draws: Tensor) -> Tensor:
        first, second, n = self.augmentation, self.second_augmentation, len(images) // self.n_views
        if second is first:
            return first(images, draws)
        return torch.cat(
            [first(images[:n], draws[:n, : first.columns]), second(images[n:], draws[n:, : second.columns])]
        )


class EpisodeBatching(Batching):
    """N-way K-shot tasks, drawn anew every step: classes, images and label numbers.

    Args:
        augmentation: Of support and query images, each with its own draws.
        n_way: Classes in a task.
        k_shot: Support images a class.
        n_query: Query images a class.
        tasks_per_batch: Tasks in a step.
    """

    batch_type = Episodes

    def __init__(self, augmentation: Augmentation, n_way: int, k_shot: int, n_query: int, tasks_per_batch: int) -> None:
        counts = {"n_way": n_way, "k_shot": k_shot, "n_query": n_query, "tasks_per_batch": tasks_per_batch}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}={value}; it must be at least 1")
        self.augmentation = augmentation
        self.n_way, self.k_shot, self.n_query = n_way, k_shot, n_query
        self.tasks_per_batch = tasks_per_batch
        self.n_outputs = n_way
        self.images_per_step = tasks_per_batch * n_way * (k_shot + n_query)

    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        distributed.rows(self.tasks_per_batch, "batching.tasks_per_batch")  # refused where processes cannot share them
        self.sampler = TaskSampler(dataset, self.n_way, self.k_shot, self.n_query)
        self.seed, self.device = seed, device
        self.images = on_device(dataset.images, device)
        shots = torch.arange(self.n_way).repeat_interleave(self.k_shot)
        queries = torch.arange(self.n_way).repeat_interleave(self.n_query)
        self.support_labels = shots.repeat(self.tasks_per_batch, 1).to(device)
        self.query_labels = queries.repeat(self.tasks_per_batch, 1).to(device)

    def batch(self, step: int) -> Episodes:
        draws = randomness.uniforms(self.seed, "tasks", step, self.tasks_per_batch, self.sampler.columns)
        mine = distributed.rows(self.tasks_per_batch, "batching.tasks_per_batch")
        tasks = self.sampler(draws[mine])
        indices = torch.cat([tasks.support, tasks.query], dim=1)  # (T, N K + N Q)
        whole = indices.numel() * distributed.size()
        draws = own_draws(self.seed, "augmentation", step, 1, whole, self.augmentation.columns)
        images = gather(self.images, indices.flatten(), self.device)
        images = self.augmentation(images, draws).unflatten(0, tuple(indices.shape))
        support, query = images.split([tasks.support.shape[1], tasks.query.shape[1]], dim=1)
        return Episodes(support, self.support_labels[mine], query, self.query_labels[mine], self.n_way)


def own_draws(seed: int, stream: str, step: int, copies: int, n: int, columns: int) -> Tensor:
    """Uniform draws (copies * m, columns) for this process's m of the n rows of a global batch, copy after copy."""
    table = torch.from_numpy(randomness.uniforms(seed, stream, step, copies * n, columns))
    return table.unflatten(0, (copies, n))[:, distributed.rows(n, "rows")].flatten(0, 1)


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """The whole set on the accelerator where half of its free memory holds it, else where it was."""
    if device.type != "cuda" or images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return images
    return images.to(device)


def gather(images: Tensor, indices: Tensor, device: torch.device) -> Tensor:
    """Images at indices (M,), on the device."""
    return images[indices.to(images.device)].to(device)
