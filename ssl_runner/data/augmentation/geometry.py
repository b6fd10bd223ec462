"""Crops and flips."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.data.augmentation import boxes
from ssl_runner.data.augmentation.checks import check_probability, check_range
from ssl_runner.data.augmentation.transform import RowTransform, Transform, to_device
from ssl_runner.errors import InvalidValue


def resampling_weights(start: Tensor, length: Tensor, size: int, out: int) -> Tensor:
    """Matrices for antialiased bilinear resampling of intervals.

    Row i holds the weights of the pixels in output pixel i: a triangle around its center, as wide as an output pixel if
    the interval shrinks and as an input pixel if it grows. Pixels outside the interval have weight 0.

    Args:
        start: (B,) first pixel of each interval.
        length: (B,) pixels in each interval, at least 1.
        size: Pixels along the axis.
        out: Output pixels for the interval.

    Returns:
        float32 (B, out, size), where rows sum to 1.
    """
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    pixel = torch.arange(size, device=start.device) + 0.5 - start  # (B, 1, size), measured from the interval's start
    step = length / out
    center = (torch.arange(out, device=start.device)[:, None] + 0.5) * step
    reach = step.clamp(min=1)
    weights = (pixel / reach - center / reach).abs_().neg_().add_(1).clamp_(min=0)
    weights.mul_((pixel > 0) & (pixel < length))
    return weights.div_(weights.sum(dim=2, keepdim=True))


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: Sequence[int]
) -> Tensor:
    """Crops a box from each image and resizes it: bilinear with antialiasing, like torchvision on tensors.

    It uses two batched matrix products with dense weights, which is exact, and fast for images of up to about 200
    pixels.

    Args:
        images: float (B, C, H, W) in [0, 1].
        top: (B,) first row of each box.
        left: (B,) first column of each box.
        height: (B,) rows of each box.
        width: (B,) columns of each box.
        size: Rows and columns of the result.

    Returns:
        (B, C, *size) in [0, 1].
    """
    rows, columns = images.shape[-2:]
    down = resampling_weights(top, height, rows, size[0])
    across = resampling_weights(left, width, columns, size[1])
    narrow = torch.bmm(images.flatten(1, 2), across.transpose(1, 2)).unflatten(1, images.shape[1:3])
    return torch.matmul(down[:, None], narrow).clamp_(0, 1)


def pad_crop(images: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Pads each image with a black frame and crops a window of the image's own size.

    Args:
        images: (B, C, H, W).
        top: int64 (B,) in [0, 2 * padding].
        left: int64 (B,) in [0, 2 * padding].
        padding: Width of the frame, in pixels.
    """
    height, width = images.shape[-2:]
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view
    return windows[torch.arange(len(images), device=images.device), :, top, left]


class RandomResizedCrop(Transform):
    """Crops a random box and resizes it (Szegedy et al. 2015, arXiv:1409.4842, section 6), with torchvision's
    distribution.

    Args:
        size: Height and width of the result in pixels; null keeps the images' own size.
        scale: Smallest and largest area of the box, as fractions of the image, in (0, 1].
        ratio: Smallest and largest width / height of the box.

    Raises:
        ValueError: If size is below 1, or a range is not ordered or out of bounds.
    """

    columns = boxes.COLUMNS

    def __init__(self, size: int | None, scale: Sequence[float], ratio: Sequence[float]) -> None:
        if size is not None and size < 1:
            raise InvalidValue(
                f"RandomResizedCrop.size={size}, expected pixels >= 1, or null for the images' own size."
            )
        self.size = size
        self.scale = check_range("RandomResizedCrop.scale", scale, 0, 1)
        self.ratio = check_range("RandomResizedCrop.ratio", ratio, 0)

    def parameters(self, draws: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
        """Top, left, height and width of each box, int64 (B, 4), in images of one size or each of its own, (B,)."""
        box, found = boxes.random_boxes(draws, height, width, self.scale, self.ratio)
        # if no try fits, the widest centered box of a permitted ratio
        if isinstance(height, Tensor) or isinstance(width, Tensor):
            return torch.where(found[:, None], box, self._centered(len(draws), height, width).to(box.device))
        tall = min(height, max(1, round(width / self.ratio[0])))
        wide = min(width, max(1, round(height * self.ratio[1])))
        centered = (height - tall) // 2, (width - wide) // 2, tall, wide  # numbers, which need no copy to a GPU
        columns = zip(box.unbind(1), centered, strict=True)
        return torch.stack([torch.where(found, drawn, number) for drawn, number in columns], dim=1)

    def _centered(self, n: int, height: int | Tensor, width: int | Tensor) -> Tensor:
        """The widest centered box of a permitted ratio in each of n images, int64 (n, 4)."""
        high, wide = (torch.as_tensor(side, dtype=torch.float64).expand(n) for side in (height, width))
        rows = (wide / self.ratio[0]).round().clamp(min=1).minimum(high)
        columns = (high * self.ratio[1]).round().clamp(min=1).minimum(wide)
        return torch.stack([(high - rows).div(2).floor(), (wide - columns).div(2).floor(), rows, columns], 1).long()

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        box = to_device(self.parameters(draws, height, width), images.device)
        size = (height, width) if self.size is None else (self.size, self.size)
        return resized_crop(images, *box.unbind(1), size=size)


class PadCrop(Transform):
    """Shifts by whole pixels: pads with a black frame and crops a window (He et al. 2015, arXiv:1512.03385).

    Args:
        padding: Width of the frame, and so the largest shift, in pixels.

    Raises:
        ValueError: If padding is negative.
    """

    columns = 2

    def __init__(self, padding: int) -> None:
        if padding < 0:
            raise InvalidValue(f"PadCrop.padding={padding}, expected pixels >= 0; 0 switches it off.")
        self.padding = padding

    def parameters(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Top and left of each window, int64 (B, 2) in [0, 2 * padding]."""
        return boxes.place(draws, torch.full_like(draws, 2 * self.padding)).long()

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        corner = to_device(self.parameters(draws, *images.shape[-2:]), images.device)
        return pad_crop(images, *corner.unbind(1), padding=self.padding)


class HorizontalFlip(RowTransform):
    """Swaps left and right.

    Args:
        probability: Share of the images that are flipped.

    Raises:
        ValueError: If it is outside [0, 1].
    """

    columns = 1

    def __init__(self, probability: float) -> None:
        self.probability = check_probability("HorizontalFlip.probability", probability)

    def parameters(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Whether to flip each image, bool (B,)."""
        return draws[:, 0] < self.probability

    def change(self, images: Tensor) -> Tensor:
        return images.flip(-1)
