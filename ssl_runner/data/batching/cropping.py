"""From a step's images and draws to augmented views, whether the images are in memory or in a store."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_runner.data.augmentation import Augmentation, RandomResizedCrop
from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.data.batching.batching import gather, on_device
from ssl_runner.data.dataset import Images
from ssl_runner.data.stores.stored_images import Pending, StoredImages
from ssl_runner.runtime import process_group

AHEAD = 2  # steps whose images are decoded while one is used,
AHEAD_BYTES = 2**28  # unless they take more than this: then one step


class ViewsOf(NamedTuple):
    """Views to be made of a step's images, all by one augmentation.

    Attributes:
        augmentation: Makes them.
        draws: Uniform (V * M, columns), view after view.
    """

    augmentation: Augmentation
    draws: Tensor


class Plan(NamedTuple):
    """What this process makes in a step: indices (M,) of its images, and their views."""

    indices: Tensor
    views: list[ViewsOf]


class Cropping:
    """Makes the views that a plan asks for.

    Args:
        images: The images of a dataset.
        device: Where the views are made.
        plan: The plan of a step, a function of its number.
        augment: `Batching.augment`.
    """

    def __init__(
        self, images: Images, device: torch.device, plan: Callable[[int], Plan], augment: Callable[..., Tensor]
    ) -> None:
        self.images = on_device(images, device)
        self.device, self.plan, self.augment = device, plan, augment
        self._ahead: dict[tuple[int, int, int], tuple[Plan, Pending]] = {}

    def __call__(self, step: int) -> tuple[Tensor, list[Tensor]]:
        """Indices (M,) on the CPU, and for each kind of views float (V, M, C, H, W) in [0, 1] on the device."""
        if isinstance(self.images, StoredImages):
            return self._from_store(self.images, step)
        plan = self.plan(step)
        whole = gather(self.images, plan.indices, self.device)
        made = []
        for augmentation, draws in plan.views:
            images = whole.repeat(len(draws) // len(whole), 1, 1, 1)
            made.append(self.augment(augmentation, images, draws).unflatten(0, (-1, len(whole))))
        return plan.indices, made

    def shapes(self, step: int) -> tuple[Tensor, list[Tensor]]:
        """Like a call, but views of stored images have no content: they are on torch's meta device."""
        if not isinstance(self.images, StoredImages):
            return self(step)
        plan = self.plan(step)
        made, blank = [], torch.zeros(1, *self.images.shape[1:], dtype=torch.uint8)
        for augmentation, draws in plan.views:
            one = augmentation(blank, draws[:1])
            made.append(
                one.new_empty(len(draws) // len(plan.indices), len(plan.indices), *one.shape[1:], device="meta")
            )
        return plan.indices, made

    def _from_store(self, images: StoredImages, step: int) -> tuple[Tensor, list[Tensor]]:
        plan, pending = self._begun(images, step)
        cut = pending.wait()
        steps = 1 if sum(part.nbytes for part in cut) > AHEAD_BYTES else AHEAD
        for next_step in range(step + 1, step + 1 + steps):  # decoded while this one is augmented and learned from
            self._begun(images, next_step)
        for key in [key for key in self._ahead if not step <= key[0] <= step + steps]:
            self._ahead.pop(key)[1].drop()
        made = []
        for (augmentation, draws), part in zip(plan.views, cut, strict=True):
            n = len(draws) // len(plan.indices)
            pixels = to_device(part, self.device)
            if crop_of(augmentation) is None:
                pixels = pixels.expand(n, *pixels.shape[1:])
                views = self.augment(augmentation, pixels.flatten(0, 1), draws)
            else:
                views = self.augment(augmentation.rest, pixels.flatten(0, 1), draws)
            made.append(views.unflatten(0, (n, -1)))
        return plan.indices, made

    def _begun(self, images: StoredImages, step: int) -> tuple[Plan, Pending]:
        key = (step, process_group.rank(), process_group.size())
        if key not in self._ahead:
            plan = self.plan(step)
            boxes = [_boxes(images, plan.indices, views) for views in plan.views]
            sizes = [getattr(crop_of(views.augmentation), "size", None) or images.size for views in plan.views]
            self._ahead[key] = (plan, images.begin(plan.indices, boxes, sizes))
        return self._ahead[key]


def crop_of(augmentation: Augmentation) -> RandomResizedCrop | None:
    """The crop with which an augmentation begins: it can be cut out of the original pixels."""
    return augmentation.first if isinstance(augmentation.first, RandomResizedCrop) else None


def _boxes(images: StoredImages, indices: Tensor, views: ViewsOf) -> Tensor | None:
    """Boxes int64 (V, M, 4) in the original images, or None if the augmentation does not begin with such a crop."""
    crop = crop_of(views.augmentation)
    if crop is None:
        return None
    sides = images.heights_and_widths(indices).repeat(len(views.draws) // len(indices), 1)
    return crop.parameters(views.draws[:, : crop.columns], sides[:, 0], sides[:, 1]).unflatten(0, (-1, len(indices)))
