"""The model that is trained: an encoder with its preprocessing, and a head on top."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssl_runner.errors import InvalidValue


class Encoder(nn.Module):
    """Maps images to features by scaling, normalisation and a backbone, so that no caller can forget the preprocessing.

    Attributes:
        out_features: Width of the features.
        input_shape: The (C, H, W) that it was built for.
        decoding: If the training images were a user's own files, how files become pixels: keyword arguments of
            `Decoding`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, input_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.input_shape = tuple(input_shape)
        self.decoding: dict[str, Any] = {}
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    @property
    def out_features(self) -> int:
        return self.backbone.out_features  # type: ignore[return-value]

    @property
    def represented_by(self) -> str | None:
        """What the features are, in words: the class token, the mean of a map; None if the backbone does not say."""
        return getattr(self.backbone, "represented_by", None)

    def prepare(self, images: Tensor) -> Tensor:
        """Normalised floats from images (B, C, H, W), uint8 or float in [0, 1].

        Raises:
            ValueError: The images are not a batch.
        """
        if images.dim() != 4:
            raise InvalidValue(
                f"got images of shape {tuple(images.shape)}, expected (B, C, H, W); for a single one, give image[None]"
            )
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        return (images - self.mean) / self.std

    def read(self, paths: Sequence[str | Path], invert: bool = False) -> Tensor:
        """Image files as the uint8 batch (B, C, H, W) that this encoder takes: upright, resized and center-cropped.

        Args:
            paths: Files in any format that Pillow reads. If there are none, the batch is empty.
            invert: For ink on paper, if the encoder was trained on light strokes on a dark background (Omniglot).

        Raises:
            ValueError: A single path is given, or (DataError) files are damaged; the message names them.
        """
        from ssl_runner.images.decoding import Decoding, decode_files

        if isinstance(paths, str | Path):
            raise InvalidValue(f"got the path {str(paths)!r}, expected a list of files; give [{str(paths)!r}]")
        channels, height, width = self.input_shape
        decoding = Decoding(size=height, channels=1 if channels == 1 else 3, invert=invert, **self.decoding)
        pixels = decode_files([Path(path) for path in paths], decoding)
        return torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0, channels, height, width).byte()

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, out_features) of images (B, C, H, W), uint8 or float in [0, 1]."""
        return self.backbone(self.prepare(images))

    def feature_map(self, images: Tensor) -> Tensor:
        """Maps (B, channels, h, w) before the features are flattened or pooled."""
        return self.backbone.feature_map(self.prepare(images))  # type: ignore[operator]


class Network(nn.Module):
    """``head(encoder(images))``."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (B, D) of images (B, C, H, W)."""
        return self.head(self.encoder(images))


def out_features(network: Network) -> int:
    """Width of a network's output: that of the head's last layer that has one, or else of the encoder's features."""
    widths = [layer.out_features for layer in network.head.modules() if isinstance(layer, nn.Linear)]
    return getattr(network.head, "out_features", None) or (widths[-1] if widths else network.encoder.out_features)
