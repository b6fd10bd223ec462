"""What a masked student predicts of a patch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.precision import at_least_float32
from ssl_runner.errors import InvalidValue
from ssl_runner.models.network import Network, out_features
from ssl_runner.models.patches import patchify, take
from ssl_runner.models.vit import Tokens, ViT


class Whole(NamedTuple):
    """Images that nothing hides.

    Attributes:
        images: (R, C, H, W), normalised.
        tokens: The teacher's, or None without a teacher.
        teacher: The teacher, or None.
    """

    images: Tensor
    tokens: Tokens | None
    teacher: Network | None


class PatchTarget(ABC):
    """A function of images that nothing hides, without gradient.

    Attributes:
        needs_teacher: Whether a teacher computes it.
        of_prototypes: Whether it is scores of prototypes, which the head gives.
        layers: How many of the teacher's last blocks it reads, 0 for its output alone.
    """

    needs_teacher: ClassVar[bool] = False
    of_prototypes: ClassVar[bool] = False
    layers: int = 0

    @abstractmethod
    def width(self, network: Network, encoder: ViT, channels: int) -> int:
        """Numbers of a patch."""

    @abstractmethod
    def __call__(self, whole: Whole, places: Tensor, encoder: ViT) -> Tensor:
        """The targets (R, P, width) of the patches at places, int64 (R, P)."""

    def picture(self, values: Tensor, reference: Tensor) -> Tensor | None:
        """Pixels (R, P, C * p * p) from predictions (R, P, width), given the true pixels; None if it shows nothing."""
        return None


class Pixels(PatchTarget):
    """The pixels of the patch, after the encoder's normalisation (SimMIM, arXiv:2111.09886).

    Args:
        normalised: Whether each patch has mean 0 and variance 1 (MAE, arXiv:2111.06377, sec. 4.2; unbiased, as there).
    """

    def __init__(self, normalised: bool) -> None:
        self.normalised = normalised

    def width(self, network: Network, encoder: ViT, channels: int) -> int:
        return channels * encoder.patch_size**2

    def __call__(self, whole: Whole, places: Tensor, encoder: ViT) -> Tensor:
        pixels = take(patchify(whole.images, encoder.patch_size), places)
        if not self.normalised:
            return pixels
        mean, deviation = _mean_and_deviation(pixels)
        return (pixels - mean) / deviation

    def picture(self, values: Tensor, reference: Tensor) -> Tensor:
        if not self.normalised:
            return values
        mean, deviation = _mean_and_deviation(reference)
        return values * deviation + mean


class Frequencies(PatchTarget):
    """The coefficients of the patch's two-dimensional cosine transform (orthonormal DCT-II of each channel), of low
    frequencies or of all.

    With all of them the mean squared error equals that of the pixels, since the transform keeps lengths.

    Args:
        share: Of the frequencies along each axis, the lowest first, in (0, 1].
    """

    def __init__(self, share: float) -> None:
        if not 0 < share <= 1:
            raise InvalidValue(
                f"share={share}; it is the share of the frequencies along each axis, so give one in (0, 1]"
            )
        self.share = share

    def width(self, network: Network, encoder: ViT, channels: int) -> int:
        return channels * self._kept(encoder.patch_size) ** 2

    def __call__(self, whole: Whole, places: Tensor, encoder: ViT) -> Tensor:
        side = encoder.patch_size
        pixels = take(patchify(whole.images, side), places)
        cosines = cosine_transform(side, pixels)[: self._kept(side)]
        with at_least_float32(pixels.device):  # autocast would round these products to half precision
            return (cosines @ pixels.unflatten(-1, (-1, side, side)) @ cosines.T).flatten(-3)

    def picture(self, values: Tensor, reference: Tensor) -> Tensor:
        numbers = reference.shape[-1]  # a square with one channel, three squares with three, and never both
        side = math.isqrt(numbers) if math.isqrt(numbers) ** 2 == numbers else math.isqrt(numbers // 3)
        kept = self._kept(side)
        cosines = cosine_transform(side, values)[:kept]
        return (cosines.T @ values.unflatten(-1, (-1, kept, kept)) @ cosines).flatten(-3)

    def _kept(self, side: int) -> int:
        return max(1, round(self.share * side))


class Features(PatchTarget):
    """The teacher's tokens of the patch: of its output (I-JEPA, arXiv:2301.08243), or the mean of several blocks
    (data2vec, Baevski et al. 2022, arXiv:2202.03555, sec. 3.3).

    Args:
        layers: Last blocks whose outputs are averaged; 0 for the output after the last layer norm. Deviation: of a
            block, data2vec takes its MLP's output before that is added to the residual stream.
        normalise: Each block before, and with ``layer`` also the mean: ``layer`` over the width of a patch (I-JEPA's
            code; data2vec for images), ``instance`` over the patches of an image (data2vec 2.0's code), or ``none``.
    """

    needs_teacher = True

    def __init__(self, layers: int, normalise: Literal["layer", "instance", "none"]) -> None:
        if layers < 0:
            raise InvalidValue(f"layers={layers}; give at least 1 block, or 0 for the encoder's output")
        if normalise not in ("layer", "instance", "none"):
            raise InvalidValue(f"normalise={normalise!r} is not one of layer, instance, none")
        self.layers, self.normalise = layers, normalise

    def width(self, network: Network, encoder: ViT, channels: int) -> int:
        if self.layers > len(encoder.body.blocks):
            raise InvalidValue(f"target.layers={self.layers}, but the encoder has {len(encoder.body.blocks)} blocks")
        return encoder.width

    def __call__(self, whole: Whole, places: Tensor, encoder: ViT) -> Tensor:
        assert whole.tokens is not None
        found: Sequence[Tensor] = whole.tokens.layers if self.layers else [whole.tokens.patches]
        normed = [self._normalised(tokens.to(torch.promote_types(tokens.dtype, torch.float32))) for tokens in found]
        mean = normed[0] if len(normed) == 1 else torch.stack(normed).mean(dim=0)
        if len(normed) > 1 and self.normalise == "layer":
            mean = self._normalised(mean)
        return take(mean, places)

    def _normalised(self, tokens: Tensor) -> Tensor:
        if self.normalise == "layer":
            return F.layer_norm(tokens, tokens.shape[-1:])
        if self.normalise == "instance":
            return F.instance_norm(tokens.transpose(1, 2)).transpose(1, 2)
        return tokens


class Prototypes(PatchTarget):
    """The scores that the teacher's head gives to its token of the patch (iBOT, Zhou et al. 2021, arXiv:2111.07832,
    eq. 3; DINOv2, arXiv:2304.07193, sec. 4). The loss turns them into probabilities.
    """

    needs_teacher = True
    of_prototypes = True

    def width(self, network: Network, encoder: ViT, channels: int) -> int:
        return out_features(network)

    def __call__(self, whole: Whole, places: Tensor, encoder: ViT) -> Tensor:
        assert whole.tokens is not None and whole.teacher is not None
        return whole.teacher.head(take(whole.tokens.patches, places).flatten(0, 1)).unflatten(0, places.shape)


def cosine_transform(side: int, like: Tensor) -> Tensor:
    """The orthonormal DCT-II matrix (side, side), with the type and device of a tensor: row k has frequency k."""
    places = torch.arange(side, dtype=like.dtype, device=like.device)
    cosines = torch.cos(torch.pi / side * (places + 0.5) * places[:, None]) * math.sqrt(2 / side)
    cosines[0] /= math.sqrt(2)
    return cosines


def _mean_and_deviation(pixels: Tensor) -> tuple[Tensor, Tensor]:
    return pixels.mean(dim=-1, keepdim=True), (pixels.var(dim=-1, keepdim=True) + 1e-6).sqrt()
