"""Pictures of what an encoder makes of images: where a transformer looks, and its feature maps as colors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.models.features import evaluating
from ssl_runner.models.network import Encoder
from ssl_runner.models.vit import ViT
from ssl_runner.report.maps import heat
from ssl_runner.report.pictures import gallery

SMALLEST = 4  # rows and columns of a feature map that shows something


def log_encoder(writer: SummaryWriter, encoder: Encoder, images: Tensor, device: torch.device, step: int) -> None:
    """Log the class token's attention, and feature maps as colors, if the encoder has them.

    Args:
        images: uint8 (N, C, H, W).
    """
    shown, backbone = images.float() / 255, encoder.backbone
    with evaluating(encoder):
        there = images.to(device)
        attention = backbone.attention(encoder.prepare(there)).float().cpu() if isinstance(backbone, ViT) else None
        maps = encoder.feature_map(there) if hasattr(backbone, "feature_map") else None
    if attention is not None:
        looks = {"original": shown, "mean of heads": attention_picture(attention.mean(dim=1), images.shape[-2:])}
        for head in range(attention.shape[1]):
            looks[f"head {head + 1}"] = attention_picture(attention[:, head], images.shape[-2:])
        writer.add_image("class_attention", gallery(looks), step)
    # some of timm's models give tokens, or several maps; after a divergence nothing can be decomposed
    if not isinstance(maps, Tensor) or maps.ndim != 4 or min(maps.shape[-2:]) < SMALLEST or not maps.isfinite().all():
        return
    colors = enlarged(principal_colors(maps.float().cpu()), images.shape[-2:])
    writer.add_image("feature_colors", gallery({"original": shown, "features": colors}), step)


def attention_picture(attention: Tensor, size: Sequence[int]) -> Tensor:
    """Colors (B, 3, H, W) of attention (B, h, w), from dark at 0 to bright at the largest value of each image."""
    greatest = attention.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    return enlarged(heat(attention / greatest).movedim(3, 1), size)


def principal_colors(maps: Tensor) -> Tensor:
    """The first three principal components of feature maps (B, D, h, w) as red, green and blue (B, 3, h, w) in [0, 1]
    (Oquab et al. 2023, arXiv:2304.07193, fig. 1).

    They are those of the positions of all images together. A color is 0 or 1 at the 2nd and 98th percentile of its
    component, and constant if there are fewer components. The largest weight of a component is positive, so that the
    colors of a map do not depend on the decomposition.
    """
    rows = maps.movedim(1, 3).flatten(0, 2)  # (B * h * w, D)
    rows = rows - rows.mean(dim=0)
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    directions = directions[:3] * (values[:3, None] > 1e-6 * values[0])
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    components = rows @ (directions * largest.sign()).T
    low, high = (torch.quantile(components, share, dim=0) for share in (0.02, 0.98))
    shares = ((components - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    colors = F.pad(shares, (0, 3 - shares.shape[1]))
    return colors.unflatten(0, (len(maps), *maps.shape[-2:])).movedim(3, 1)


def enlarged(pictures: Tensor, size: Sequence[int]) -> Tensor:
    """Pictures (B, C, H, W) of this size, whose pixels are repeated."""
    return F.interpolate(pictures, size=list(size), mode="nearest")
