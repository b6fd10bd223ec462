"""Cuts boxes out of the original pixels of an encoded image, and resizes them."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssl_runner.errors import DataError
from ssl_runner.images.decoding import Damage, Decoding, decode_or_damage, pillow_limit_raised, readable, too_large

# Pillow's advice for `reducing_gap`: from twice the wanted size on, a reduced image gives nearly the same result
GAP = 2


class Box(NamedTuple):
    """A part of the upright image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


class Cut(NamedTuple):
    """A box, and the height and width to which it is resized."""

    box: Box
    size: int


def cut(
    data: bytes, shape: tuple[int, int], cuts: Sequence[Cut], decoding: Decoding, name: Callable[[], str]
) -> list[Tensor]:
    """Each cut of an image, uint8 (C, size, size): bilinear with antialiasing, as torchvision's RandomResizedCrop.

    The image is decoded once for all cuts. A JPEG of which all cuts shrink is decoded at a half, a quarter or an eighth
    of its size, if that is at least `GAP` times what is wanted.

    Args:
        data: The content of the file.
        shape: Height and width of the upright image.
        cuts: At least one.
        decoding: Its size is not used.
        name: Names the image in messages.

    Raises:
        DataError: The image cannot be decoded; the message names it.
    """
    try:
        with pillow_limit_raised(), Image.open(io.BytesIO(data)) as opened:
            if damage := too_large(opened, decoding):
                raise DataError(f"{name()} has {damage.reason}; {damage.remedy}.")
            _reduce(opened, cuts)
            image = readable(opened, decoding)
            return [resized(pixels, size) for pixels, size in _parts(image, shape, cuts)]
    except DataError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        raise DataError(f"{name()} cannot be decoded ({' '.join(str(error).split())}); replace or delete it.") from None


def fit(data: bytes, decoding: Decoding, name: Callable[[], str]) -> np.ndarray:
    """The image resized and cut from the middle, uint8 (C, size, size): exactly the pixels of `decoding.decode`.

    Raises:
        DataError: The image cannot be decoded; the message names it.
    """
    with pillow_limit_raised():
        found = decode_or_damage(data, decoding)
    if isinstance(found, Damage):
        raise DataError(f"{name()} cannot be decoded ({found.reason}); {found.remedy}.")
    return found.pixels


def resized(pixels: Tensor, size: int) -> Tensor:
    """Pixels uint8 (1, C, H, W) as (C, size, size), bilinear with antialiasing."""
    # 0.4 ms where Pillow's resize takes 1.3 ms: torch has vector instructions for uint8 with channels last
    return torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)[0]


def _reduce(opened: Image.Image, cuts: Sequence[Cut]) -> None:
    share = max(GAP * size / min(box.height, box.width) for box, size in cuts)
    if share <= 0.5 and opened.format == "JPEG":
        opened.draft(opened.mode, (int(opened.width * share), int(opened.height * share)))


def _parts(image: Image.Image, shape: tuple[int, int], cuts: Sequence[Cut]) -> Iterator[tuple[Tensor, int]]:
    """The pixels of each cut's box, uint8 (1, C, H, W) with channels last, and the wanted size."""
    down, across = image.height / shape[0], image.width / shape[1]  # below 1 if a JPEG was reduced
    edges = [
        (
            round(box.left * across),
            round(box.top * down),
            max(round((box.left + box.width) * across), round(box.left * across) + 1),
            max(round((box.top + box.height) * down), round(box.top * down) + 1),
        )
        for box, _ in cuts
    ]
    lefts, tops, rights, bottoms = zip(*edges, strict=True)
    left, top = min(lefts), min(tops)
    array = np.array(image.crop((left, top, max(rights), max(bottoms))))  # only what is needed leaves Pillow's memory
    pixels = torch.from_numpy(array.reshape(1, *array.shape[:2], -1)).permute(0, 3, 1, 2)
    for (x, y, end_x, end_y), (_, size) in zip(edges, cuts, strict=True):
        yield pixels[:, :, y - top : end_y - top, x - left : end_x - left], size
