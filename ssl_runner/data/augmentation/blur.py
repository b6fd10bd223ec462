"""Gaussian blur."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.data.augmentation.checks import check_probability, check_range
from ssl_runner.data.augmentation.transform import RowTransform, between, per_image
from ssl_runner.errors import InvalidValue

WIDEST = 5  # sigmas: what lies beyond changes a sum of pixels by less than the last bits of a float


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blurs each image with its own Gaussian, truncated to the kernel. Images are reflected at their borders.

    Args:
        images: float (B, C, H, W) in [0, 1].
        sigma: (B,) in pixels, positive.
        kernel_size: Odd, in pixels.

    Raises:
        ValueError: If the images are too small to be reflected.
    """
    reach = kernel_size // 2
    if reach >= min(images.shape[-2:]):
        raise InvalidValue(
            f"kernel_size={kernel_size} needs images of more than {reach} pixels, got {tuple(images.shape[-2:])}; "
            "lower GaussianBlur.kernel_size."
        )
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    taps = torch.softmax(-0.5 * (offsets / sigma[:, None]).square(), dim=1)  # (B, kernel_size)
    if sigma.is_cuda or reach < 2:
        return _convolved(images, taps)
    out = torch.empty_like(images)
    needed = (sigma * WIDEST).ceil().clamp(1, reach).int()  # on a CPU, half of the taps would do nothing
    for radius in needed.unique().tolist():
        rows = (needed == radius).nonzero().squeeze(1)
        part = images[int(rows) :][:1] if len(rows) == 1 else images.index_select(0, rows)
        near = taps.index_select(0, rows)[:, reach - radius : reach + radius + 1]
        out.index_copy_(0, rows, _convolved(part, near))
    return out


def _convolved(images: Tensor, taps: Tensor) -> Tensor:
    """Images convolved along both axes with their own taps (B, an odd number), and reflected at their borders."""
    count = taps.shape[1]
    padded = F.pad(images, [count // 2] * 4, mode="reflect")
    for axis in (2, 3):
        # one term per tap, so images can have any size and weights can differ between images
        parts = (padded.narrow(axis, i, images.shape[axis]) for i in range(count))
        terms = zip(parts, taps.unbind(1), strict=True)
        part, weight = next(terms)
        total = part * per_image(weight)
        for part, weight in terms:
            total.addcmul_(part, per_image(weight))
        padded = total
    return padded.clamp_(0, 1)


class GaussianBlur(RowTransform):
    """Blur of random width (Chen et al. 2020, arXiv:2002.05709, app. A).

    Args:
        kernel_size: Odd, in pixels; about a tenth of the side.
        sigma: Smallest and largest width, in pixels.
        probability: Share of the images that are changed.

    Raises:
        ValueError: If an argument is out of bounds.
    """

    columns = 2

    def __init__(self, kernel_size: int, sigma: Sequence[float], probability: float) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InvalidValue(f"GaussianBlur.kernel_size={kernel_size}, expected an odd number of pixels; add 1.")
        self.kernel_size = kernel_size
        self.sigma = check_range("GaussianBlur.sigma", sigma, 0)
        self.probability = check_probability("GaussianBlur.probability", probability)

    def parameters(self, draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Whether to change each image, bool (B,), and sigma in pixels (B,)."""
        return draws[:, 0] < self.probability, between(draws[:, 1], *self.sigma)

    def change(self, images: Tensor, sigma: Tensor) -> Tensor:
        return gaussian_blur(images, sigma, self.kernel_size)
