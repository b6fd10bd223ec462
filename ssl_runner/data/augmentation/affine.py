"""Rotation, shift, zoom and shear in one resampling."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.data.augmentation.checks import check_amount, check_range
from ssl_runner.data.augmentation.transform import Transform, between, to_device
from ssl_runner.errors import InvalidValue

Fill = float | Literal["border"]


def affine(
    images: Tensor, angle: Tensor, across: Tensor, down: Tensor, scale: Tensor, shear: Tensor, fill: Fill
) -> Tensor:
    """Shears, zooms and rotates each image around its center, then shifts it; bilinear.

    It equals torchvision's version except for the fill, for which torchvision weights pixels at the border twice.

    Args:
        images: float (B, C, H, W) in [0, 1].
        angle: (B,) degrees, clockwise.
        across: (B,) pixels to the right.
        down: (B,) pixels downwards.
        scale: (B,) zoom, positive.
        shear: (B,) degrees, parallel to the x axis.
        fill: Value outside the image, or ``border`` for the nearest pixel of the image.

    Returns:
        (B, C, H, W) in [0, 1].
    """
    height, width = images.shape[-2:]
    cosine, sine, slant = angle.deg2rad().cos(), angle.deg2rad().sin(), shear.deg2rad().tan()
    # the source of an output pixel is shear^-1 rotation^-1 (pixel - shift) / scale, measured from the center
    xx, xy = (cosine - slant * sine) / scale, (sine + slant * cosine) / scale
    yx, yy = -sine / scale, cosine / scale
    x, y = -(xx * across + xy * down), -(yx * across + yy * down)
    # affine_grid measures from -1 to 1 along either axis
    rows = [xx, xy * (height / width), x * (2 / width), yx * (width / height), yy, y * (2 / height)]
    theta = torch.stack(rows, dim=1).unflatten(1, (2, 3))
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    if fill == "border":
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp_(0, 1)
    if fill == 0:
        return F.grid_sample(images, grid, align_corners=False).clamp_(0, 1)
    return F.grid_sample(images - fill, grid, align_corners=False).add_(fill).clamp_(0, 1)


class Affine(Transform):
    """Random rotation, shift, zoom and shear.

    Unlike in torchvision's RandomAffine, shifts are not rounded to whole pixels.

    Args:
        degrees: Largest rotation in either direction.
        translate: Largest shift in either direction along each axis, as a fraction of the side, in [0, 1].
        scale: Smallest and largest zoom.
        shear: Largest shear parallel to the x axis in either direction, in degrees below 90.
        fill: Value outside the image in [0, 1], or ``border`` for its nearest pixel.

    Raises:
        ValueError: If an argument is out of bounds.
    """

    columns = 5

    def __init__(self, degrees: float, translate: float, scale: Sequence[float], shear: float, fill: Fill) -> None:
        self.degrees = check_amount("Affine.degrees", degrees, 180)
        self.translate = check_amount("Affine.translate", translate, 1)
        self.scale = check_range("Affine.scale", scale, 0)
        self.shear = check_amount("Affine.shear", shear, 89)
        if fill != "border" and (isinstance(fill, str) or not 0 <= fill <= 1):
            raise InvalidValue(f"Affine.fill={fill!r}, expected a value in [0, 1] or 'border'; 0 is black.")
        self.fill: Fill = fill

    def parameters(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Parameters (B, 5): degrees, pixels to the right, pixels downwards, zoom and degrees of shear."""
        spans = [
            (-self.degrees, self.degrees),
            (-self.translate * width, self.translate * width),
            (-self.translate * height, self.translate * height),
            self.scale,
            (-self.shear, self.shear),
        ]
        return torch.stack([between(draws[:, i], *span) for i, span in enumerate(spans)], dim=1)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        parameters = to_device(self.parameters(draws, *images.shape[-2:]), images.device)
        return affine(images, *parameters.unbind(1), fill=self.fill)
