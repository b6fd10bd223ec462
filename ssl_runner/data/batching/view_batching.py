"""Batches of augmented views."""

import torch
from torch import Tensor

from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.data.batches import Views
from ssl_runner.data.batching.batching import Batching, own_draws
from ssl_runner.data.batching.cropping import Cropping, Plan, ViewsOf
from ssl_runner.data.dataset import Dataset
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import process_group, randomness


class ViewBatching(Batching):
    """Augmented views of images, in a new order every epoch. The last, smaller batch of an epoch is dropped.

    Args:
        augmentation: Maps uint8 images and draws to float views in [0, 1].
        batch_size: Number of images in a batch. All views of an image are in the same batch.
        views: Views of an image.
        second_augmentation: Augmentation of all views but the first (BYOL, Barlow Twins, DINO), or None for the same.
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
            raise InvalidValue(f"batch_size={batch_size}, views={views}; both must be at least 1")
        if second_augmentation is not None and views == 1:
            raise InvalidValue("second_augmentation is for the views after the first, but views=1; set it to null")
        self.augmentation = augmentation
        self.second_augmentation = second_augmentation or augmentation
        self.batch_size = batch_size
        self.n_views = views
        self.images_per_step = batch_size * views

    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        self.n_outputs = dataset.n_classes if dataset.labels is not None else None
        if len(dataset) < self.batch_size:
            raise InvalidValue(
                f"batch_size={self.batch_size}, but {dataset.name} has {len(dataset)} images; lower batching.batch_size"
            )
        process_group.rows(self.batch_size, "batching.batch_size")  # raises an error if the processes cannot share them
        self.seed, self.device = seed, device
        self.labels, self.n_images = dataset.labels, len(dataset)
        self.cropping = Cropping(dataset.images, device, self.plan, self.augment)
        self.steps_per_epoch = len(dataset) // self.batch_size
        self._epoch, self._order = -1, torch.empty(0)

    def batch(self, step: int) -> Views:
        return self._masked(self.of(*self.cropping(step)), step)

    def largest(self) -> Views:
        return self._masked(self.of(*self.cropping.shapes(0)), 0)

    def plan(self, step: int) -> Plan:
        """This process's images of a step, and the views to be made of them."""
        indices = self._indices(step)
        first, second, n = self.augmentation, self.second_augmentation, len(indices)
        columns = max(first.columns, second.columns)
        draws = own_draws(self.seed, "augmentation", step, self.n_views, self.batch_size, columns)
        if second is first:
            return Plan(indices, [ViewsOf(first, draws)])
        parts = (first, draws[:n, : first.columns]), (second, draws[n:, : second.columns])
        return Plan(indices, [ViewsOf(*part) for part in parts])

    def _indices(self, step: int) -> Tensor:
        assert self.steps_per_epoch is not None
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = randomness.permutation(self.seed, "order", epoch, self.n_images)
            self._epoch, self._order = epoch, torch.from_numpy(order)
        indices = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        return indices[process_group.rows(self.batch_size, "batching.batch_size")]

    def _masked(self, views: Views, step: int) -> Views:
        return self.masked(views, self.seed, step, self.batch_size, self.device)

    def of(self, indices: Tensor, views: list[Tensor]) -> Views:
        """The batch of these images and their views, each (V, M, C, H, W)."""
        labels = None if self.labels is None else to_device(self.labels[indices], self.device)
        crops = views[0] if len(views) == 1 else torch.cat(views)
        return Views(crops=(crops,), labels=labels, indices=to_device(indices, self.device))
