"""torchvision's residual networks, with a stem for small images."""

from typing import Literal

from torch import Tensor, nn

from ssl_runner.models.batch_norm import BatchNorm2d

_LARGEST_SMALL_IMAGE = 64


class ResNet(nn.Module):
    """ResNet (He et al. 2015, arXiv:1512.03385) without its classifier.

    Images of up to 64 pixels get a 3x3 stem with stride 1 and no max-pool, as in SimCLR on CIFAR-10 (arXiv:2002.05709,
    B.9); larger ones get the usual 7x7 stem.

    Args:
        in_channels: 1 or 3.
        image_size: Height and width in pixels.
        depth: 18, 34 or 50 layers.
    """

    def __init__(self, in_channels: int, image_size: int, depth: Literal[18, 34, 50]) -> None:
        super().__init__()
        import torchvision.models  # takes a second, which conv4 can save

        network = getattr(torchvision.models, f"resnet{depth}")(norm_layer=BatchNorm2d)
        small = image_size <= _LARGEST_SMALL_IMAGE
        kernel, stride = (3, 1) if small else (7, 2)
        if small or in_channels != 3:
            network.conv1 = nn.Conv2d(in_channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        pool = nn.Identity() if small else network.maxpool
        stages = (network.layer1, network.layer2, network.layer3, network.layer4)
        self.body = nn.Sequential(network.conv1, network.bn1, network.relu, pool, *stages)
        self.out_features = network.fc.in_features
        self.represented_by = "mean of the last map"

    def depths(self) -> dict[str, int]:
        """The stage of each parameter, 0 for the stem."""
        return {name: max(0, int(name.split(".")[1]) - 3) for name, _ in self.named_parameters()}

    def feature_map(self, images: Tensor) -> Tensor:
        """Maps (B, out_features, h, w) of images (B, C, H, W)."""
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, out_features) of normalised images (B, C, H, W): the average over the map."""
        return self.feature_map(images).mean(dim=(2, 3))
