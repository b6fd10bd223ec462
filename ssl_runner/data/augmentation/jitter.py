"""Random changes of color."""

from torch import Tensor, stack

from ssl_runner.data.augmentation import color
from ssl_runner.data.augmentation.checks import check_amount, check_probability
from ssl_runner.data.augmentation.transform import RowTransform, between
from ssl_runner.errors import InvalidValue


class ColorJitter(RowTransform):
    """Changes brightness, contrast, saturation and hue, each by its own factor (Chen et al. 2020, arXiv:2002.05709,
    app. A).

    Deviation: the order is always this one, whereas torchvision's ColorJitter shuffles it.

    Args:
        brightness: Factors are uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: Same for the contrast.
        saturation: Same for the saturation.
        hue: Largest turn in either direction, in [0, 0.5].
        probability: Share of the images that are changed.

    Raises:
        ValueError: If an argument is out of bounds.
    """

    columns = 5

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float, probability: float) -> None:
        self.brightness = check_amount("ColorJitter.brightness", brightness)
        self.contrast = check_amount("ColorJitter.contrast", contrast)
        self.saturation = check_amount("ColorJitter.saturation", saturation)
        self.hue = check_amount("ColorJitter.hue", hue, 0.5)
        self.probability = check_probability("ColorJitter.probability", probability)

    def parameters(self, draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Whether to change each image, bool (B,), and the three factors and the turn of the hue (B, 4)."""
        amounts = (self.brightness, self.contrast, self.saturation)
        factors = [between(draws[:, 1 + i], max(0, 1 - amount), 1 + amount) for i, amount in enumerate(amounts)]
        turn = between(draws[:, 4], -self.hue, self.hue)
        return draws[:, 0] < self.probability, stack([*factors, turn], dim=1)

    def change(self, images: Tensor, factors: Tensor) -> Tensor:
        if self.brightness:
            images = color.adjust_brightness(images, factors[:, 0])
        if self.contrast:
            images = color.adjust_contrast(images, factors[:, 1])
        if self.saturation:
            images = color.adjust_saturation(images, factors[:, 2])
        if self.hue:
            images = color.adjust_hue(images, factors[:, 3])
        return images


class RandomGrayscale(RowTransform):
    """Removes color and keeps the number of channels.

    Args:
        probability: Share of the images that are changed.

    Raises:
        ValueError: If it is outside [0, 1].
    """

    columns = 1

    def __init__(self, probability: float) -> None:
        self.probability = check_probability("RandomGrayscale.probability", probability)

    def parameters(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Whether to change each image, bool (B,)."""
        return draws[:, 0] < self.probability

    def change(self, images: Tensor) -> Tensor:
        return color.to_gray(images)


class Solarize(RowTransform):
    """Inverts bright values (Grill et al. 2020, arXiv:2006.07733, app. B).

    Args:
        threshold: Smallest value that is inverted, in [0, 1].
        probability: Share of the images that are changed.

    Raises:
        ValueError: If an argument is outside [0, 1].
    """

    columns = 1

    def __init__(self, threshold: float, probability: float) -> None:
        if not 0 <= threshold <= 1:
            raise InvalidValue(f"Solarize.threshold={threshold}, expected a value in [0, 1]; 128 of 255 is 0.5.")
        self.threshold = float(threshold)
        self.probability = check_probability("Solarize.probability", probability)

    def parameters(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Whether to change each image, bool (B,)."""
        return draws[:, 0] < self.probability

    def change(self, images: Tensor) -> Tensor:
        return color.solarize(images, self.threshold)
