"""Tokens of frozen feature maps: a transformer's patches, or the positions of a convolutional network's last map."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_runner.data.dataset import Images
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.gallery import SEED, rows_of
from ssl_runner.models.features import BATCH_SIZE, evaluating
from ssl_runner.models.network import Encoder
from ssl_runner.runtime import randomness

LIMIT = 2**31  # bytes of tokens that are kept, in half precision; more are computed anew in each epoch
N_STATISTICS = 4096  # images whose tokens say what is standardised away


def tokens_of(encoder: nn.Module, images: Tensor) -> Tensor:
    """Tokens (B, N, D) of images (B, C, H, W), in reading order, without class token and registers."""
    maps: Tensor = encoder.feature_map(images)  # type: ignore[operator]
    body: Any = getattr(encoder.backbone, "body", None)
    if maps.ndim == 3:  # timm's transformers
        return maps[:, getattr(body, "num_prefix_tokens", 0) :]
    channels_last = getattr(body, "output_fmt", None) == "NHWC"  # timm's windowed transformers
    return maps.flatten(1, 2) if channels_last else maps.flatten(2).transpose(1, 2)


def refusal(encoder: Encoder) -> str | None:
    """Why an encoder has no tokens, or None."""
    kind, backbone = type(encoder.backbone).__name__, encoder.backbone
    weights = next(encoder.parameters(), None)
    if weights is None or not hasattr(backbone, "feature_map"):
        return f"the encoder ({kind}) has no feature map for it to attend to"
    try:
        with evaluating(encoder):
            shape = tokens_of(encoder, torch.zeros(1, *encoder.input_shape, device=weights.device)).shape
    except Exception as error:  # whatever another's network raises
        return f"the encoder ({kind}) gives no feature map ({' '.join(str(error).split())[:100]})"
    return None if len(shape) == 3 else f"the encoder ({kind}) gives a feature map of {len(shape)} dimensions"


class FrozenTokens:
    """Standardised tokens of images, computed once if they fit.

    They are kept in half precision if they take at most `LIMIT` bytes; else each call computes those that it returns.
    Each of the D numbers is standardised by its mean and deviation over all tokens of at most `N_STATISTICS` of the
    images, chosen at random; one that is constant there becomes 0.

    Args:
        encoder: In evaluation mode.
        parts: Images uint8 (N_i, C, H, W).
        device: The encoder's.

    Raises:
        ValueError: A token is not finite.
    """

    def __init__(self, encoder: Encoder, parts: Sequence[Images], device: torch.device) -> None:
        self.encoder, self.parts, self.device = encoder, parts, device
        self.n = sum(len(part) for part in parts)
        order = torch.from_numpy(randomness.permutation(SEED, "tokens/statistics", 0, self.n))
        self.mean, self.scale, self.shape = self._statistics(order[:N_STATISTICS].sort().values)
        self.kept: Tensor | None = None
        if 2 * self.n * self.shape.numel() <= LIMIT:
            self.kept = torch.empty(self.n, *self.shape, dtype=torch.half, device=device)
            for rows in torch.arange(self.n).split(BATCH_SIZE):
                self.kept[rows[0] : rows[-1] + 1] = self._computed(rows)

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Tensor:
        """Tokens float32 (B, N, D) of the images at rows, int64 (B,) on the CPU."""
        return self._computed(rows) if self.kept is None else self.kept[rows.to(self.device)].float()

    @torch.no_grad()
    def of(self, images: Tensor) -> Tensor:
        """Tokens float32 (B, N, D) of other images, standardised in the same way."""
        found = (tokens_of(self.encoder, images.to(self.device)).float() - self.mean) * self.scale
        if not found.isfinite().all():
            raise InvalidValue("tokens of the encoder are not finite: training has diverged; lower optimizer.lr")
        return found

    def _computed(self, rows: Tensor) -> Tensor:
        return self.of(rows_of(self.parts, rows, self.device))

    def _statistics(self, rows: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """Mean (D,), one over the deviation (D,), and the shape (N, D) of an image's tokens."""
        sums, squares, count, shape = 0.0, 0.0, 0, torch.Size()
        for images in self._batches(rows):
            found = tokens_of(self.encoder, images)
            shape = found.shape[1:]
            found = found.flatten(0, 1).cpu().double()  # not every device has float64
            sums, squares = sums + found.sum(dim=0), squares + found.square().sum(dim=0)
            count += len(found)
        mean = torch.as_tensor(sums) / count
        deviation = (torch.as_tensor(squares) / count - mean.square()).clamp_min(0).sqrt()
        varies = deviation > 1e-6 * mean.abs()  # by rounding, a constant number has a deviation of about 1e-7 of it
        scale = torch.where(varies, 1 / deviation, 0)
        return mean.float().to(self.device), scale.float().to(self.device), shape

    def _batches(self, rows: Tensor) -> Iterable[Tensor]:
        return (rows_of(self.parts, part, self.device) for part in rows.split(BATCH_SIZE))
