"""Patches of images: their grid, pixels and positions."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue


class Grid(NamedTuple):
    """Rows and columns of an image's patches. Patches are numbered from 0 in reading order."""

    height: int
    width: int

    @property
    def patches(self) -> int:
        return self.height * self.width


def take(tokens: Tensor, places: Tensor) -> Tensor:
    """The tokens (R, P, D) at places (R, P), of (R, N, D)."""
    return tokens.gather(1, places[..., None].expand(*places.shape, tokens.shape[-1]))


def sincos(grid: Grid, width: int) -> Tensor:
    """Fixed position embeddings (N, width): sines and cosines of the column, then of the row (MAE's and I-JEPA's code).

    Args:
        width: A multiple of 4.

    Raises:
        ValueError: It is not.
    """
    if width % 4:
        raise InvalidValue(f"width={width}; sines and cosines of rows and columns need a multiple of 4")
    rates = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    places = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) for side in grid)).view(-1, 2)
    angles = places.flip(1)[:, :, None] * rates  # (N, 2, width / 4)
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1).float()


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """The pixels of each patch, (R, N, C * patch_size ** 2), of images (R, C, H, W); channels vary slowest."""
    return F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)


def unpatchify(patches: Tensor, patch_size: int, size: tuple[int, int]) -> Tensor:
    """Images (R, C, H, W) from the pixels of their patches: the inverse of `patchify`."""
    return F.fold(patches.transpose(1, 2), size, patch_size, stride=patch_size)
