"""The twelve-layer residual network of few-shot learning."""

from torch import Tensor, nn

from ssl_runner.errors import InvalidValue
from ssl_runner.models.batch_norm import BatchNorm2d
from ssl_runner.models.dropblock import DropBlock

WIDTHS = (64, 160, 320, 640)
SLOPE = 0.1


class ResNet12(nn.Module):
    """ResNet-12 (Oreshkin et al. 2018, arXiv:1805.10123) in the widths of MetaOptNet (Lee et al. 2019,
    arXiv:1904.03758, sec. 4.1): four residual blocks of three 3x3 convolutions, 64, 160, 320 and 640 channels wide.

    Features are the average over the last map. A block does not halve maps of a single pixel, so images of any size can
    be used; the last map of 84 pixels is 5x5, of 64 is 4x4, of 28 is 1x1.

    With ``drop_rate``, the output of the first two blocks gets dropout and that of the last two DropBlock, as in
    MetaOptNet's code. Deviation: if the rate rises, then that of the dropout, too.

    Args:
        in_channels: 1 or 3.
        image_size: Height and width in pixels.
        drop_rate: Share of values that is dropped in training, in [0, 1); 0 for none.
        block_size: Height and width of DropBlock's squares, at least 1.
        drop_warmup: Number of forward passes in training over which the drop rate rises from 0 in a straight line, or
            null for a constant one. A step has one pass, unless a batch is cut. Inner loops (MAML) do not count passes
            and use the full rate.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self, in_channels: int, image_size: int, drop_rate: float, block_size: int, drop_warmup: int | None
    ) -> None:
        super().__init__()
        if drop_warmup is not None and drop_warmup < 1:
            raise InvalidValue(f"drop_warmup={drop_warmup}; give at least 1 pass, or null for a constant drop rate")
        blocks, before, side = [], in_channels, image_size
        for number, width in enumerate(WIDTHS):
            drop = DropBlock(drop_rate, block_size if number >= 2 else 1)
            blocks.append(ResidualBlock(before, width, side > 1, drop, drop_warmup))
            before, side = width, max(side // 2, 1)
        self.blocks = nn.Sequential(*blocks)
        self.out_features = WIDTHS[-1]
        self.represented_by = "mean of the last map"

    def depths(self) -> dict[str, int]:
        """The block of each parameter, from 0."""
        return {name: int(name.split(".")[1]) for name, _ in self.named_parameters()}

    def feature_map(self, images: Tensor) -> Tensor:
        """Maps (B, 640, h, w) of images (B, C, H, W)."""
        return self.blocks(images)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 640) of normalised images (B, C, H, W): the average over the map."""
        return self.feature_map(images).mean(dim=(2, 3))


class ResidualBlock(nn.Module):
    """Three convolutions with batch normalisation beside a 1x1 one, added up; then leaky ReLU, halving and dropping.

    Args:
        in_channels: Channels of the input.
        width: Channels of the output.
        halve: Whether a max-pool halves the map.
        drop: What is dropped of the output.
        drop_warmup: See `ResNet12`.
    """

    def __init__(self, in_channels: int, width: int, halve: bool, drop: DropBlock, drop_warmup: int | None) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _convolution(in_channels, width, 3),
            BatchNorm2d(width),
            nn.LeakyReLU(SLOPE, inplace=True),
            _convolution(width, width, 3),
            BatchNorm2d(width),
            nn.LeakyReLU(SLOPE, inplace=True),
            _convolution(width, width, 3),
            BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential(_convolution(in_channels, width, 1), BatchNorm2d(width))
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)
        self.pool = nn.MaxPool2d(2) if halve else nn.Identity()
        self.drop, self.drop_warmup = drop, drop_warmup

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, width, h / 2, w / 2) of maps (B, in_channels, h, w)."""
        added = self.convolutions(maps) + self.shortcut(maps)
        return self.drop(self.pool(self.activation(added)), self._share())

    def _share(self) -> Tensor | float:
        """Share of the drop rate that is reached."""
        norm = self.shortcut[1]
        assert isinstance(norm, BatchNorm2d) and norm.num_batches_tracked is not None
        if self.drop_warmup is None or not self.training or norm.statistics != "module":
            return 1.0
        return (norm.num_batches_tracked / self.drop_warmup).clamp(max=1)  # it counts, and is in the checkpoint


def _convolution(in_channels: int, width: int, kernel: int) -> nn.Conv2d:
    # no bias: batch normalisation cancels it
    convolution = nn.Conv2d(in_channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, SLOPE, "fan_out", "leaky_relu")
    return convolution
