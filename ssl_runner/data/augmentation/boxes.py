"""Random boxes inside an image, drawn as in torchvision's RandomResizedCrop and RandomErasing."""

import math

import torch
from torch import Tensor

from ssl_runner.data.augmentation.transform import between

TRIES = 10
COLUMNS = 2 * TRIES + 2


def random_boxes(
    draws: Tensor, height: int | Tensor, width: int | Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """A box for each sample with uniform area, log-uniform ratio and uniform position, all within the image.

    A box that does not fit is drawn again, at most `TRIES` times. All tries are drawn at once and the first that fits
    is taken, which gives torchvision's distribution with a fixed number of draws.

    Args:
        draws: (B, COLUMNS) in [0, 1).
        height: Height of the images, in pixels, or of each image (B,).
        width: Width of the images, in pixels, or of each image (B,).
        scale: Smallest and largest area, as fractions of the image.
        ratio: Smallest and largest width / height.

    Returns:
        int64 (B, 4) of top, left, height and width; and bool (B,), whether any try fitted. If none did, the box is the
            last try cut to the image.
    """
    height, width = (torch.as_tensor(side, dtype=draws.dtype).expand(len(draws)) for side in (height, width))
    area = between(draws[:, :TRIES], *scale) * (height * width)[:, None]
    root = between(draws[:, TRIES : 2 * TRIES], 0.5 * math.log(ratio[0]), 0.5 * math.log(ratio[1])).exp_()
    side = area.sqrt_()
    tall, wide = (side / root).round_(), (side * root).round_()
    fits = (tall >= 1) & (tall <= height[:, None]) & (wide >= 1) & (wide <= width[:, None])
    found = fits.any(dim=1)
    fits[:, -1] = True
    first = fits.int().argmax(dim=1, keepdim=True)
    tall = tall.gather(1, first).squeeze(1).clamp_(min=1).minimum(height)
    wide = wide.gather(1, first).squeeze(1).clamp_(min=1).minimum(width)
    return torch.stack(
        [place(draws[:, -2], height - tall), place(draws[:, -1], width - wide), tall, wide], 1
    ).long(), found


def place(draws: Tensor, room: Tensor) -> Tensor:
    """Whole numbers, uniform in {0, ..., room}, as floats."""
    return (draws * (room + 1)).floor_()  # a float32 below 1, times n, rounds to below n
