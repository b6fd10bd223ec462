"""Pixels of every mode that Pillow opens, as 8 bits of gray or RGB, by stated rules."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

Range = Sequence[float]
BITS = (8, 10, 12, 14, 16)  # of what cameras and scanners leave in 16-bit files


class Unreadable(ValueError):
    """A file that is whole but not to be read as it is.

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
    """The fewest of `BITS` that hold a value in [0, 65535]."""
    return next(bits for bits in BITS if greatest < 2**bits)


def eight_bits(
    image: Image.Image, background: Sequence[int], value_range: Range | None, bits: int | None
) -> Image.Image:
    """Gray (L) or RGB of an image of any mode.

    - 1, L, P, RGB: as they are; HSV, YCbCr, LAB and CMYK as Pillow converts them (color profiles are not applied).
    - Transparency (RGBA, LA, a palette's, a PNG's transparent color) is laid on the background.
    - 16-bit integers: the upper 8 of ``bits``; 32-bit ones likewise where they hold no more than 65,535.
    - Floats: [0, 1] becomes [0, 255].
    - With ``value_range``, that range of values becomes [0, 255] in every mode, and what lies outside is clipped.

    Args:
        background: Red, green and blue.
        value_range: Least and greatest value, or None.
        bits: That 16-bit integers have; None for as many as the greatest of this image needs.

    Raises:
        Unreadable: Values are outside of the range that the mode is read by, or no numbers.
    """
    if is_deep(image):
        return _of_numbers(np.asarray(image), value_range, bits)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow inverts the inks of every JPEG, as Adobe's programs write them; others do not
        image = Image.fromarray(255 - np.asarray(image), "CMYK")
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if value_range is not None:
        low, high = value_range
        table = [round(min(255.0, max(0.0, (value - low) * 255 / (high - low)))) for value in range(256)]
        image = image.point(table * len(image.getbands()))
    return image


def _of_numbers(values: np.ndarray, value_range: Range | None, bits: int | None) -> Image.Image:
    if values.dtype.kind == "f" and (wrong := int((~np.isfinite(values)).sum())):
        raise Unreadable(f"{wrong:,} of its {values.size:,} values are no finite numbers", "mend the file")
    least, greatest = values.min(), values.max()
    most = 1 if values.dtype.kind == "f" else 65535
    if value_range is not None:
        low, high = value_range
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    elif least < 0 or greatest > most:
        span = f"[{least:g},{greatest:g}]"
        raise Unreadable(
            f"its values lie in {span}, expected [0,{most}] in a file of mode {'F' if most == 1 else 'I'}",
            f"say what is black and what is white with dataset.value_range={span}",
        )
    elif most == 1:
        scaled = values.astype(np.float64) * 255
    else:
        return Image.fromarray((values >> ((bits or bits_for(int(greatest))) - 8)).clip(0, 255).astype(np.uint8))
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
