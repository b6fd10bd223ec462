"""Vision transformers of two blocks, in float64."""

import torch

from ssl_runner.models.network import Encoder
from ssl_runner.models.vit import ViT


def small_vit(channels: int = 1, image_size: int = 16, patch_size: int = 4, seed: int = 0, **changes) -> ViT:
    """DeiT-tiny cut to two blocks, whose weights are large enough to tell things apart."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = ViT(channels, image_size, "tiny", patch_size, **changes)
        made.body.blocks = made.body.blocks[:2]
        for weight in made.parameters():
            if weight.requires_grad:
                weight.data += 0.05 * torch.randn_like(weight)
    return made.double()


def encoder_of(made: ViT, channels: int = 1, image_size: int = 16) -> Encoder:
    return Encoder(made, (channels, image_size, image_size), [0.4] * channels, [0.3] * channels).double()
