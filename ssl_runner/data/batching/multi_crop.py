"""Views at two resolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batches import Views
from ssl_runner.data.batching.batching import Batching, own_draws
from ssl_runner.data.batching.cropping import Cropping, Plan, ViewsOf
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.data.dataset import Dataset
from ssl_runner.errors import InvalidValue


class MultiCropBatching(Batching):
    """Two global views and several local ones of half the height and width (Caron et al. 2020, arXiv:2006.09882).

    Local crops are cut and resized by their own augmentation like any view, then averaged over 2 x 2 pixels. Where
    their augmentation resizes them to their own size, ``local_pool`` is 1.

    Args:
        augmentation: Augmentation of the global views.
        batch_size: Number of images in a batch. All views of an image are in the same batch.
        local_augmentation: Augmentation of the local views: crops of a small part.
        local_views: Local views of an image, at least 1.
        second_augmentation: Augmentation of the second global view, or None for the same.
        local_pool: Height and width of the squares of pixels over which local views are averaged; 1 keeps their size.
    """

    batch_type = Views

    def __init__(
        self,
        augmentation: Augmentation,
        batch_size: int,
        local_augmentation: Augmentation,
        local_views: int,
        second_augmentation: Augmentation | None,
        local_pool: int = 2,
    ) -> None:
        if local_pool < 1:
            raise InvalidValue(f"local_pool={local_pool}; give at least 1, which averages nothing")
        if local_views < 1:
            raise InvalidValue(f"local_views={local_views}; give at least 1, or choose batching=two_view")
        self.whole = ViewBatching(augmentation, batch_size, 2, second_augmentation)
        self.local_augmentation, self.local_views, self.local_pool = local_augmentation, local_views, local_pool
        self.augmentation = augmentation
        self.n_views = 2 + local_views
        self.images_per_step = batch_size * self.n_views

    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        self.whole.bind(dataset, seed, device)
        self.seed, self.n_outputs = seed, self.whole.n_outputs
        self.steps_per_epoch = self.whole.steps_per_epoch
        self.cropping = Cropping(self.whole.cropping.images, device, self.plan, self.augment)

    def batch(self, step: int) -> Views:
        return self._masked(self._of(*self.cropping(step)), step)

    def largest(self) -> Views:
        return self._masked(self._of(*self.cropping.shapes(0)), 0)

    def smaller(self, images: Tensor) -> list[Tensor]:
        draws = torch.zeros(len(images), self.local_augmentation.columns)
        return [self._pooled(self.local_augmentation(images, draws))]

    def plan(self, step: int) -> Plan:
        """The plan of the global views, and that of the local ones."""
        indices, views = self.whole.plan(step)
        columns = self.local_augmentation.columns
        draws = own_draws(self.seed, "local", step, self.local_views, self.whole.batch_size, columns)
        return Plan(indices, [*views, ViewsOf(self.local_augmentation, draws)])

    def _masked(self, views: Views, step: int) -> Views:
        return self.masked(views, self.seed, step, self.whole.batch_size, self.whole.device)

    def _of(self, indices: Tensor, views: list[Tensor]) -> Views:
        batch = self.whole.of(indices, views[:-1])
        local = views[-1]
        local = self._pooled(local.flatten(0, 1)).unflatten(0, local.shape[:2])
        return Views((*batch.crops, local), batch.labels, batch.indices)

    def _pooled(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, self.local_pool) if self.local_pool > 1 else images
