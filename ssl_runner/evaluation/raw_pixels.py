"""The baseline that every encoder has to beat: the pixels themselves."""

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.data.batches import Views
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime.step_context import StepContext

LARGEST = 32


class RawPixels(Algorithm):
    """An algorithm whose features are the flattened pixels in [0, 1]; it has nothing to train.

    Larger images are first averaged down to 32 x 32, because fitting a classifier to 100,000 pixels is impractical.

    Args:
        input_shape: (C, H, W) of the images.
    """

    batch_type = Views

    def __init__(self, input_shape: Sequence[int]) -> None:
        channels = input_shape[0]
        encoder = Encoder(Pixels(input_shape), input_shape, mean=[0.0] * channels, std=[1.0] * channels)
        super().__init__(Network(encoder, nn.Identity()))

    def training_step(self, batch: Any, context: StepContext) -> Step:
        """Raises TypeError: pixels cannot be trained."""
        raise TypeError("RawPixels has no parameters; evaluate it without training")


class Pixels(nn.Module):
    """(B, C, H, W) to (B, C * H * W), H and W at most 32."""

    def __init__(self, input_shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.sides = (min(height, LARGEST), min(width, LARGEST))
        self.out_features = channels * math.prod(self.sides)

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, self.sides).flatten(1)

    def feature_map(self, images: Tensor) -> Tensor:
        """The image itself, (B, C, H, W)."""
        return images
