"""The four-block convolutional network of few-shot learning."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.errors import InvalidValue
from ssl_runner.models.batch_norm import BatchNorm2d


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, batch normalisation, ReLU and halving (Vinyals et al. 2016, arXiv:1606.04080).

    Deviation: convolutions have no bias, since the normalisation that follows would cancel it.

    A block whose halving would make the map smaller than ``grid`` does not halve it, so that small images can be used.

    Args:
        in_channels: 1 or 3.
        image_size: Height and width in pixels.
        width: Channels of every block.
        downsample: ``max_pool`` (ProtoNet) or ``stride`` (MAML on Omniglot).
        grid: The last map is averaged to grid x grid before it is flattened; null leaves it unchanged.

    Raises:
        ValueError: width or grid is below 1, or the grid is finer than the image.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        width: int,
        downsample: Literal["max_pool", "stride"],
        grid: int | None,
    ) -> None:
        super().__init__()
        if width < 1:
            raise InvalidValue(f"width={width}; a block needs channels, so give at least 1, say 64")
        if grid is not None and not 1 <= grid <= image_size:
            raise InvalidValue(
                f"grid={grid}, but images are only {image_size} pixels wide; give 1 to {image_size}, or null"
            )
        blocks, side = [], image_size
        for block in range(4):
            # a stride of 2 rounds up, a pool rounds down
            halved = -(-side // 2) if downsample == "stride" else side // 2
            halve = halved >= (grid or 1) and side > 1
            blocks.append(_block(in_channels if block == 0 else width, width, downsample if halve else None))
            side = halved if halve else side
        self.blocks = nn.Sequential(*blocks)
        self.grid = grid
        self.out_features = width * (grid or side) ** 2
        self.represented_by = "last map, flattened"

    def depths(self) -> dict[str, int]:
        """The block of each parameter, from 0."""
        return {name: int(name.split(".")[1]) for name, _ in self.named_parameters()}

    def feature_map(self, images: Tensor) -> Tensor:
        """Maps (B, width, h, w) of images (B, C, H, W)."""
        return self.blocks(images)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, out_features) of normalised images (B, C, H, W)."""
        maps = self.feature_map(images)
        if self.grid is not None and maps.shape[-1] != self.grid:
            maps = F.adaptive_avg_pool2d(maps, self.grid)
        return maps.flatten(1)


def _block(in_channels: int, width: int, downsample: str | None) -> nn.Sequential:
    stride = 2 if downsample == "stride" else 1
    # no bias: batch normalisation cancels it, and Adam would turn the rounding errors of its zero gradient into steps
    convolution = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
    layers = [convolution, BatchNorm2d(width), nn.ReLU(inplace=True)]
    if downsample == "max_pool":
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
