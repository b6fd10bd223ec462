"""Gaussian blur."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.data.augmentation.checks import check_probability, check_range
from ssl_runner.data.augmentation.transform import Transform, between, change_rows, per_image
from ssl_runner.errors import InvalidValue


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
    padded = F.pad(images, [reach] * 4, mode="reflect")
    for axis in (2, 3):
        # one term per tap, so images can have any size and weights can differ between images
        parts = (padded.narrow(axis, i, images.shape[axis]) for i in range(kernel_size))
        terms = zip(parts, taps.unbind(1), strict=True)
        part, weight = next(terms)
        total = part * per_image(weight)
        for part, weight in terms:
            total.addcmul_(part, per_image(weight))
        padded = total
    return padded.clamp_(0, 1)


class GaussianBlur(Transform):
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

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        chosen, sigma = self.parameters(draws, *images.shape[-2:])
        return change_rows(images, chosen, lambda rows, widths: gaussian_blur(rows, widths, self.kernel_size), sigma)
