"""Color functions of images, float (B, C, H, W) in [0, 1], and one parameter per sample, without randomness.

They match torchvision's functions, which take one parameter for the whole batch. Gray images (C = 1) have no hue or
saturation to change.
"""

import torch
from torch import Tensor

from ssl_runner.data.augmentation.transform import per_image
from ssl_runner.errors import InvalidValue

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, rounded as in torchvision and PIL


def luma(images: Tensor) -> Tensor:
    """Gray values (B, 1, H, W) of images with 1 or 3 channels.

    Raises:
        ValueError: If there is another number of channels.
    """
    if images.shape[1] == 1:
        return images
    if images.shape[1] != 3:
        raise InvalidValue(
            f"images have {images.shape[1]} channels, expected 1 or 3; set the color transforms to null."
        )
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def to_gray(images: Tensor) -> Tensor:
    """Each image in gray, with as many channels as before."""
    return luma(images).expand_as(images)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies images by a factor (B,) >= 0."""
    return (images * per_image(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies the distance from the image's mean gray value by a factor (B,) >= 0."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return _blend(images, luma(mean), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies the distance from each pixel's gray value by a factor (B,) >= 0."""
    return images if images.shape[1] == 1 else _blend(images, luma(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shifts the hue by a number of turns (B,), where 0.5 is the opposite color. Value and saturation stay the same."""
    if images.shape[1] == 1:
        return images
    high, low, hue = _hexagon(images)
    chroma = high.sub_(low)
    hue.add_(shift[:, None, None] * 6)
    hue.sub_((hue / 6).floor_(), alpha=6)  # remainder_(6) costs four times as much
    out = torch.empty_like(images)
    # the share of the chroma in each channel, over the sixths of the circle
    shares = (hue - 3).abs_().sub_(1), (hue - 2).abs_().neg_().add_(2), hue.sub_(4).abs_().neg_().add_(2)
    for channel, share in enumerate(shares):
        torch.add(share.clamp_(0, 1).mul_(chroma), low, out=out[:, channel])
    return out.clamp_(0, 1)


def _hexagon(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest and smallest channel, and the hue in [-1, 5], in sixths of the circle; each is (B, H, W)."""
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = (high - low).clamp_(
        min=1e-12
    )  # for gray this is 0 / 1e-12; without chroma the resulting hue has no effect
    # 1.0 where a channel is the largest, of several the first one: floats, since torch compares to bools, and chooses
    # by them, without vector instructions
    of_red, of_green = torch.empty_like(high), torch.empty_like(high)
    torch.eq(high, red, out=of_red)
    torch.eq(high, green, out=of_green).sub_(of_red).clamp_(min=0)
    of_blue = (1 - of_red).sub_(of_green)
    difference = (red - green).mul_(of_blue).addcmul_(blue - red, of_green).addcmul_(green - blue, of_red)
    return high, low, difference.div_(chroma).add_(of_green, alpha=2).add_(of_blue, alpha=4)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Inverts values from the threshold on."""
    return torch.where(images >= threshold, 1 - images, images)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = per_image(factor)
    return (images * factor).add_(other * (1 - factor)).clamp_(0, 1)
