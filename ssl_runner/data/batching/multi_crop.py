"""Views at two resolutions."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batches import Views
from ssl_runner.data.batching.batching import Batching, own_draws
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.data.dataset import Dataset
from ssl_runner.errors import InvalidValue


class MultiCropBatching(Batching):
    """Two global views and several local ones of half the height and width (Caron et al. 2020, arXiv:2006.09882).

    Local crops are cut and resized by their own augmentation like any view, then averaged over 2 x 2 pixels.

    Args:
        augmentation: Augmentation of the global views.
        batch_size: Number of images in a batch. All views of an image are in the same batch.
        local_augmentation: Augmentation of the local views: crops of a small part.
        local_views: Local views of an image, at least 1.
        second_augmentation: Augmentation of the second global view, or None for the same.
    """

    batch_type = Views

    def __init__(
        self,
        augmentation: Augmentation,
        batch_size: int,
        local_augmentation: Augmentation,
        local_views: int,
        second_augmentation: Augmentation | None,
    ) -> None:
        if local_views < 1:
            raise InvalidValue(f"local_views={local_views}; give at least 1, or choose batching=two_view")
        self.whole = ViewBatching(augmentation, batch_size, 2, second_augmentation)
        self.local_augmentation, self.local_views = local_augmentation, local_views
        self.n_views = 2 + local_views
        self.images_per_step = batch_size * self.n_views

    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        self.whole.bind(dataset, seed, device)
        self.seed, self.n_outputs = seed, self.whole.n_outputs
        self.steps_per_epoch = self.whole.steps_per_epoch

    def compile(self, compiler: Callable[[Augmentation], Callable[[Tensor, Tensor], Tensor]]) -> None:
        super().compile(compiler)
        self.whole.compile(compiler)

    def batch(self, step: int) -> Views:
        batch = self.whole.batch(step)
        images = self.whole.images_at(batch.indices).repeat(self.local_views, 1, 1, 1)
        columns = self.local_augmentation.columns
        draws = own_draws(self.seed, "local", step, self.local_views, self.whole.batch_size, columns)
        local = F.avg_pool2d(self.augment(self.local_augmentation, images, draws), 2)
        return Views((*batch.crops, local.unflatten(0, (self.local_views, len(batch)))), batch.labels, batch.indices)
