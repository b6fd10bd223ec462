"""Random erasing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_runner.data.augmentation import boxes
from ssl_runner.data.augmentation.checks import check_probability, check_range
from ssl_runner.data.augmentation.transform import RowTransform
from ssl_runner.errors import InvalidValue


def erase(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, value: float) -> Tensor:
    """Sets a box of each image (B, C, H, W) to a value. The box arguments are (B,), in pixels."""
    rows = torch.arange(images.shape[2], device=images.device) - top[:, None]
    columns = torch.arange(images.shape[3], device=images.device) - left[:, None]
    rows, columns = (rows >= 0) & (rows < height[:, None]), (columns >= 0) & (columns < width[:, None])
    return images.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], value)


class RandomErasing(RowTransform):
    """Sets a random box to one value (Zhong et al. 2017, arXiv:1708.04896).

    Boxes are drawn as in torchvision, except that the ratio is width / height, as for crops, and a box may be as high
    as the image. If none of ten boxes fits, the image is not changed.

    Args:
        probability: Share of the images that are changed.
        scale: Smallest and largest area of the box, as fractions of the image, in (0, 1].
        ratio: Smallest and largest width / height of the box.
        value: In [0, 1].

    Raises:
        ValueError: If an argument is out of bounds.
    """

    columns = 1 + boxes.COLUMNS

    def __init__(self, probability: float, scale: Sequence[float], ratio: Sequence[float], value: float) -> None:
        self.probability = check_probability("RandomErasing.probability", probability)
        self.scale = check_range("RandomErasing.scale", scale, 0, 1)
        self.ratio = check_range("RandomErasing.ratio", ratio, 0)
        if not 0 <= value <= 1:
            raise InvalidValue(f"RandomErasing.value={value}, expected a gray value in [0, 1]; 0 is black.")
        self.value = float(value)

    def parameters(self, draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Whether to erase, bool (B,), and top, left, height and width of each box, int64 (B, 4)."""
        box, found = boxes.random_boxes(draws[:, 1:], height, width, self.scale, self.ratio)
        return found & (draws[:, 0] < self.probability), box

    def change(self, images: Tensor, box: Tensor) -> Tensor:
        return erase(images, *box.unbind(1), value=self.value)
