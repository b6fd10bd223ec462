"""An encoder with all its preprocessing as tensor operations, for formats that hold a whole computation."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssl_runner.models.network import Encoder

LOBES = 3  # of Lanczos' filter, as in Pillow


class Standalone(nn.Module):
    """Features of RGB images of any size: gray values, resizing, scaling and normalisation are inside.

    It does what `ssl_runner.images.decoding.decode` and `Encoder` do, in the same order, after a file was decoded to
    RGB. Gray values are exactly Pillow's; resized pixels may differ from Pillow's by one level of 255, since Pillow
    rounds the filter's weights to 22 bits.

    Args:
        encoder: In evaluation mode.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D) of images uint8 (B, 3, H, W), RGB. A gray image has its values in all three channels."""
        levels = images.float()
        if self.encoder.input_shape[0] == 1:
            levels = gray(levels)
        return self.encoder(fitted(levels, self.encoder.input_shape[1]) / 255)


def gray(levels: Tensor) -> Tensor:
    """ITU-R 601 luma (B, 1, H, W) of levels (B, 3, H, W) in [0, 255], with Pillow's integers; exact in float32."""
    red, green, blue = levels[:, 0:1], levels[:, 1:2], levels[:, 2:3]
    return torch.floor((red * 19595 + green * 38470 + blue * 7471 + 32768) / 65536)


def fitted(levels: Tensor, size: int) -> Tensor:
    """Levels (B, C, H, W) center-cropped to a square and resized to (B, C, size, size) by Lanczos' filter.

    It rounds to whole levels after each direction, like Pillow, and leaves images of this size unchanged.
    """
    height, width = levels.shape[-2:]
    side: Any = torch.sym_min(height, width)
    across = _whole(levels @ _weights(width, side, size, levels).T)
    return _whole(_weights(height, side, size, levels) @ across)


def _whole(levels: Tensor) -> Tensor:
    return torch.floor(levels + 0.5).clamp(0, 255)


def _weights(n: int, side: int, size: int, like: Tensor) -> Tensor:
    """Weights (size, n) of n pixels, of which the middle ``side`` become ``size``."""
    options = {"device": like.device, "dtype": torch.float32}
    pixels = torch.arange(n, **options)
    shrinking = torch.ones(1, **options) * side / size
    reach = shrinking.clamp(min=1)
    start = (torch.ones(1, **options) * n - side) / 2
    centers = start + (torch.arange(size, **options) + 0.5) * shrinking
    distance = (pixels[None] + 0.5 - centers[:, None]) / reach
    weights = torch.where(distance.abs() < LOBES, _sinc(distance) * _sinc(distance / LOBES), 0.0)
    return weights / weights.sum(dim=1, keepdim=True)


def _sinc(x: Tensor) -> Tensor:
    angle = math.pi * x
    near = x.abs() < 1e-6
    return torch.where(near, 1.0, torch.sin(angle) / torch.where(near, 1.0, angle))
