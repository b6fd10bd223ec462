"""From a step's images and draws to augmented views, whether the images are in memory or in a store."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_runner.data.augmentation import Augmentation, RandomResizedCrop
from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.data.batching.batching import gather, on_device
from ssl_runner.data.dataset import Images
from ssl_runner.data.stores.pending import Pending
from ssl_runner.data.stores.stored_images import StoredImages
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
        self._shapes: dict[int, torch.Size] = {}
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
        return plan.indices, [
            torch.empty(self._shape(self.images, plan, kind), device="meta") for kind in range(len(plan.views))
        ]

    def _from_store(self, images: StoredImages, step: int) -> tuple[Tensor, list[Tensor]]:
        plan, pending = self._begun(images, step)
        cut = pending.wait()
        if images.left is not None:
            images.left.tell()
        steps = 1 if sum(part.nbytes for part in cut) > AHEAD_BYTES else AHEAD
        for next_step in range(step + 1, step + 1 + steps):  # decoded while this one is augmented and learned from
            self._begun(images, next_step)
        # what a device has cut belongs to the CUDA stream that asked for it, and may not be given to another
        first = step if images.left is None else step + 1
        for key in [key for key in self._ahead if not first <= key[0] <= step + steps]:
            self._ahead.pop(key)[1].drop()
        if self._finishes_late(images, plan):
            cut = [self._augmented(plan, kind, to_device(part, self.device)) for kind, part in enumerate(cut)]
        return plan.indices, cut

    def _augmented(self, plan: Plan, kind: int, pixels: Tensor, start: int = 0) -> Tensor:
        """Views (V, m, C, H, W) of a kind, of cuts (V or 1, m, C, H, W) of the m images from place ``start`` on."""
        augmentation, draws = plan.views[kind]
        table = draws.unflatten(0, (-1, len(plan.indices)))[:, start : start + pixels.shape[1]]
        pixels = pixels.expand(len(table), *pixels.shape[1:]).flatten(0, 1)
        change = augmentation if crop_of(augmentation) is None else augmentation.rest
        return self.augment(change, pixels, table.flatten(0, 1)).unflatten(0, (len(table), -1))

    def _shape(self, images: StoredImages, plan: Plan, kind: int) -> tuple[int, ...]:
        """The shape of a kind's views, found by augmenting a blank image once."""
        augmentation, draws = plan.views[kind]
        if kind not in self._shapes:
            size = getattr(crop_of(augmentation), "size", None) or images.size
            blank = torch.zeros(1, images.shape[1], size, size, dtype=torch.uint8)
            change = augmentation if crop_of(augmentation) is None else augmentation.rest
            self._shapes[kind] = change(blank, draws[:1]).shape[1:]
        return (len(draws) // len(plan.indices), len(plan.indices), *self._shapes[kind])

    def _begun(self, images: StoredImages, step: int) -> tuple[Plan, Pending]:
        key = (step, process_group.rank(), process_group.size())
        if key not in self._ahead:
            plan = self.plan(step)
            boxes = [_boxes(images, plan.indices, views) for views in plan.views]
            sizes = [getattr(crop_of(views.augmentation), "size", None) or images.size for views in plan.views]
            finish = made = None
            if not self._finishes_late(images, plan):
                # the thread that has decoded an image augments it, too, while it is in the cache. Memory is taken here:
                # what glibc gives to other threads in large pieces it does not keep (`keep_pages`)
                finish = partial(self._augmented, plan)
                made = [torch.empty(self._shape(images, plan, kind)) for kind in range(len(plan.views))]
            decodes = self.device if _for_nvjpeg(images, plan) else None
            self._ahead[key] = (plan, images.begin(plan.indices, boxes, sizes, finish, made, decodes))
        return self._ahead[key]

    def _finishes_late(self, images: StoredImages, plan: Plan) -> bool:
        """Whether cuts are augmented in batches, not by the threads that decode."""
        return self.device.type != "cpu" or _for_nvjpeg(images, plan)


def crop_of(augmentation: Augmentation) -> RandomResizedCrop | None:
    """The crop with which an augmentation begins: it can be cut out of the original pixels."""
    return augmentation.first if isinstance(augmentation.first, RandomResizedCrop) else None


def _for_nvjpeg(images: StoredImages, plan: Plan) -> bool:
    """Whether boxes are cut out of what a device decodes."""
    return images.left is not None and any(crop_of(views.augmentation) is not None for views in plan.views)


def _boxes(images: StoredImages, indices: Tensor, views: ViewsOf) -> Tensor | None:
    """Boxes int64 (V, M, 4) in the original images, or None if the augmentation does not begin with such a crop."""
    crop = crop_of(views.augmentation)
    if crop is None:
        return None
    sides = images.heights_and_widths(indices).repeat(len(views.draws) // len(indices), 1)
    return crop.parameters(views.draws[:, : crop.columns], sides[:, 0], sides[:, 1]).unflatten(0, (-1, len(indices)))
