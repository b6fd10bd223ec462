"""Dropout of contiguous regions of feature maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.errors import InvalidValue


class DropBlock(nn.Module):
    """DropBlock (Ghiasi et al. 2018, arXiv:1810.12890, alg. 1): sets squares of a map to 0 in training.

    Each channel of each image drops its own squares. All that is kept is multiplied by one number, so that the sum of a
    map of equal values stays the same. Seeds of squares lie where the whole square is inside the map, with the
    probability of the paper (sec. 3.1), so that about ``drop_rate`` of the values are dropped, less where squares
    overlap. With squares of one pixel it is dropout. Squares are drawn like dropout: by step and process, so that they
    depend on the number of processes.

    Args:
        drop_rate: Share of values to drop, in [0, 1).
        block_size: Height and width of a square in pixels, at least 1; at most the map's are used.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(self, drop_rate: float, block_size: int) -> None:
        super().__init__()
        if not 0 <= drop_rate < 1:
            raise InvalidValue(f"drop_rate={drop_rate}; it is a share, so give a number in [0, 1), say 0.1")
        if block_size < 1:
            raise InvalidValue(f"block_size={block_size}; a square has at least 1 pixel, so give, say, 5")
        self.drop_rate, self.block_size = drop_rate, block_size

    def forward(self, maps: Tensor, share: Tensor | float = 1.0) -> Tensor:
        """Maps (B, C, H, W) with squares set to 0.

        Args:
            share: What the drop rate is multiplied by, in [0, 1], for a rate that rises.
        """
        if not self.training or not self.drop_rate:
            return maps
        batch, channels, height, width = maps.shape
        size = min(self.block_size, height, width)
        inside = (height - size + 1), (width - size + 1)
        probability = share * (self.drop_rate / size**2 * height * width / (inside[0] * inside[1]))
        seeds = (torch.rand(batch, channels, *inside, device=maps.device) < probability).to(maps.dtype)
        kept = 1 - F.max_pool2d(F.pad(seeds, [size - 1] * 4), size, stride=1)  # a seed is its square's first corner
        return maps * kept * (kept.numel() / kept.sum().clamp(min=1))
