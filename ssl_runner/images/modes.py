"""Converts pixels of every mode that Pillow opens to 8 bits of gray or RGB, by explicit rules."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

Range = Sequence[float]
BITS = (8, 10, 12, 14, 16)  # bits that cameras and scanners use in 16-bit files


class Unreadable(ValueError):
    """A file that is not damaged but cannot be read as it is.

    Attributes:
        remedy: What to set.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def is_deep(image: Image.Image) -> bool:
    """Whether values are integers of more than 8 bits, or floats."""
    return image.mode.startswith(("I", "F"))


def bits_for(greatest: int) -> int:
    """The smallest of `BITS` that holds a value in [0, 65535]."""
    return next(bits for bits in BITS if greatest < 2**bits)


def eight_bits(
    image: Image.Image, background: Sequence[int], value_range: Range | None, bits: int | None
) -> Image.Image:
    """Gray (L) or RGB version of an image of any mode.

    - 1, L, P and RGB are used as they are; HSV, YCbCr, LAB and CMYK are converted by Pillow (color profiles are not
      applied).
    - Transparency (RGBA, LA, that of a palette, a PNG's transparent color) is composed with the background.
    - Of 16-bit integers, the upper 8 of ``bits`` are kept; the same for 32-bit integers up to 65,535.
    - Floats in [0, 1] become [0, 255].
    - With ``value_range``, that range of values becomes [0, 255] in every mode, and values outside it are clipped.

    Args:
        background: Red, green and blue.
        value_range: Smallest and largest value, or None.
        bits: Bits of 16-bit integers; None for as many as the largest value of this image needs.

    Raises:
        Unreadable: Values are outside the range of the mode, or are not numbers.
    """
    if is_deep(image):
        return _of_numbers(np.asarray(image), value_range, bits)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow inverts the inks of every JPEG, as needed for Adobe's programs but not for others
        image = Image.fromarray(255 - np.asarray(image), "CMYK")
    mode = "L" if image.mode in ("1", "L") else "RGB"
    image = image if image.mode == mode else image.convert(mode)  # convert would copy
    if value_range is not None:
        low, high = value_range
        table = [round(min(255.0, max(0.0, (value - low) * 255 / (high - low)))) for value in range(256)]
        image = image.point(table * len(image.getbands()))
    return image


def _of_numbers(values: np.ndarray, value_range: Range | None, bits: int | None) -> Image.Image:
    if values.dtype.kind == "f" and (wrong := int((~np.isfinite(values)).sum())):
        raise Unreadable(f"{wrong:,} of its {values.size:,} values are not finite numbers", "fix the file")
    least, greatest = values.min(), values.max()
    most = 1 if values.dtype.kind == "f" else 65535
    if value_range is not None:
        low, high = value_range
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    elif least < 0 or greatest > most:
        span = f"[{least:g},{greatest:g}]"
        raise Unreadable(
            f"its values lie in {span}, expected [0,{most}] in a file of mode {'F' if most == 1 else 'I'}",
            f"set the values of black and white with dataset.value_range={span}",
        )
    elif most == 1:
        scaled = values.astype(np.float64) * 255
    else:
        return Image.fromarray((values >> ((bits or bits_for(int(greatest))) - 8)).clip(0, 255).astype(np.uint8))
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
