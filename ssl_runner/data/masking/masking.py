"""The interface of masking, and the masks of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.errors import InvalidValue
from ssl_runner.models.patches import Grid
from ssl_runner.runtime import process_group, randomness


@dataclass(frozen=True)
class Masks:
    """M masks of each of V global views of B images, of N patches.

    Attributes:
        hidden: bool (V, M, B, N), patches that the student does not see.
        targets: int64 (V, M, B, Q, P), patches to be predicted, in Q groups that are predicted independently.
        weights: float (V, M, B, Q, P): of each prediction in the mean of its mask. They sum to 1 for each mask, or to 0
            if it hides nothing; what only fills up a group has weight 0.
        visible: int64 (V, M, B, S), patches that the student sees, in ascending order; None if their number differs
            between images.
    """

    hidden: Tensor
    targets: Tensor
    weights: Tensor
    visible: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Masks":
        """The masks with every tensor changed."""
        visible = None if self.visible is None else change(self.visible)
        return Masks(change(self.hidden), change(self.targets), change(self.weights), visible)

    def chunk(self, n: int) -> list["Masks"]:
        """At most n parts of B / n images each."""
        size = -(-self.hidden.shape[2] // n)
        starts = range(0, self.hidden.shape[2], size)
        return [self.each(lambda tensor, start=start: tensor[:, :, start : start + size]) for start in starts]

    def tensors(self) -> list[Tensor]:
        """All tensors, always in the same order."""
        return [self.hidden, self.targets, self.weights, *([] if self.visible is None else [self.visible])]


class Masking(ABC):
    """Draws masks. A mask is a function of its own row of uniform draws, and of a few that the whole batch shares.

    Attributes:
        masks: Masks of each global view, at least 1.
        shared: Number of draws that the whole batch shares.
        compares: Whether a mask depends on all other masks of the batch, so that every process draws all of them.
    """

    masks: int
    shared: ClassVar[int] = 0
    compares: ClassVar[bool] = False

    @abstractmethod
    def columns(self, grid: Grid) -> int:
        """Number of uniform draws that a mask needs."""

    @abstractmethod
    def check(self, grid: Grid) -> None:
        """Raises ValueError if images of so many patches cannot be masked in this way."""

    def constant(self, grid: Grid) -> bool:
        """Whether as many patches are visible in every image of a batch, so that the others need not be computed."""
        return True

    @abstractmethod
    def draw(self, draws: Tensor, shared: Tensor, grid: Grid) -> Masks:
        """Masks from draws (V, M, B, columns) and (shared,), all uniform in [0, 1)."""

    def __call__(self, seed: int, step: int, views: int, images: int, grid: Grid, device: torch.device) -> Masks:
        """This process's masks of a step, on the device.

        Args:
            views: Global views of an image.
            images: Images in the batch of all processes.
        """
        columns = self.columns(grid)
        rows = process_group.rows(images, "batching.batch_size")
        table = randomness.uniforms(seed, "masks", step, views * self.masks * images, columns)
        draws = torch.from_numpy(table).view(views, self.masks, images, columns)
        shared = torch.from_numpy(randomness.uniforms(seed, "masks/shared", step, 1, max(1, self.shared)))[0]
        if self.compares:
            return self.draw(draws, shared, grid).each(lambda tensor: to_device(tensor[:, :, rows], device))
        return self.draw(to_device(draws[:, :, rows].contiguous(), device), shared, grid)


def of_hidden(hidden: Tensor, most: int, visible: int | None) -> Masks:
    """Masks whose targets are all hidden patches, in one group.

    Args:
        hidden: bool (V, M, B, N).
        most: The largest number of hidden patches.
        visible: Number of patches that are visible in every image, or None if it differs.
    """
    order = hidden.byte().argsort(dim=-1, descending=True, stable=True)
    places = order[..., :most]
    weights = hidden.gather(-1, places).float()
    weights /= weights.sum(dim=-1, keepdim=True).clamp_min(1)
    seen = None if visible is None else order[..., hidden.shape[-1] - visible :]
    return Masks(hidden, places[..., None, :], weights[..., None, :], seen)


def check_masks(masks: int) -> int:
    """The number of masks.

    Raises:
        ValueError: It is below 1.
    """
    if masks < 1:
        raise InvalidValue(f"masks={masks}; each view has at least 1, or choose masking=none")
    return masks


def check_share(name: str, share: float) -> float:
    """The share.

    Raises:
        ValueError: It is not inside (0, 1).
    """
    if not 0 < share < 1:
        raise InvalidValue(f"{name}={share}; it is the hidden share of the patches, so give a number in (0, 1)")
    return share


def count_of(share: float, patches: int) -> int:
    """Patches that a share of all is: at least 1, and at least one is left."""
    return max(1, min(patches - 1, round(share * patches)))
