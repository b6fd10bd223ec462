"""Decodes JPEGs on a device, by nvJPEG on CUDA, and cuts boxes out of their pixels there."""

import functools
import inspect
import io
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import torch
from PIL import ExifTags, Image
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.images.cutting import Cut
from ssl_runner.images.decoding import Decoding, pillow_limit_raised, too_large

Decoder = Literal["pillow", "nvjpeg"]

_MODES = {1: "GRAY", 3: "RGB"}
_REMEDY = "set dataset.decoder=pillow"
# pixels as they are stored, by EXIF's orientation, made upright: as `PIL.ImageOps.exif_transpose`
_UPRIGHT: dict[int, Callable[[Tensor], Tensor]] = {
    2: lambda pixels: pixels.flip(-1),
    3: lambda pixels: pixels.flip(-2, -1),
    4: lambda pixels: pixels.flip(-2),
    5: lambda pixels: pixels.mT,
    6: lambda pixels: pixels.rot90(-1, (-2, -1)),
    7: lambda pixels: pixels.mT.flip(-2, -1),
    8: lambda pixels: pixels.rot90(1, (-2, -1)),
}


class Jpeg(NamedTuple):
    """A JPEG whose pixels on a device are those that Pillow gives, but for rounding.

    Attributes:
        data: The content of the file, uint8 (n,) on the CPU.
        orientation: EXIF's, 1 to 8.
        shape: Height and width of the upright image.
    """

    data: Tensor
    orientation: int
    shape: tuple[int, int]


def refuse_without(device: torch.device) -> None:
    """Raises InvalidValue unless this is a CUDA device on which torchvision decodes JPEGs."""
    if device.type != "cuda":
        raise InvalidValue(
            f"dataset.decoder=nvjpeg needs a CUDA device, but this run's device is {str(device)!r}; {_REMEDY}, or "
            "trainer.device=cuda where there is an NVIDIA GPU"
        )
    probe(device)


def probe(device: torch.device) -> None:
    """Decode two small JPEGs on a device.

    Raises:
        InvalidValue: This torchvision cannot.
    """
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    _torchvision()  # has its own messages
    try:
        _call([_tensor(file.getvalue())] * 2, 3, device)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # depending on version and build
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidValue(
            f"dataset.decoder=nvjpeg: torchvision {version('torchvision')} does not decode JPEGs on {device} "
            f"({reason}), expected one that was built with nvJPEG; install torchvision for CUDA, or {_REMEDY}"
        ) from None


def jpeg(data: bytes, shape: tuple[int, int], decoding: Decoding) -> Jpeg | None:
    """A file as a JPEG for a device.

    None for what is left to Pillow: other formats, several pictures in a file (MPO), CMYK, colors that are stored as
    RGB, damaged files, and decoding that changes values.

    Args:
        data: The content of the file.
        shape: Height and width of the upright image.
    """
    if decoding.invert or decoding.value_range is not None:
        return None
    try:
        with pillow_limit_raised(), Image.open(io.BytesIO(data)) as opened:
            if opened.format != "JPEG" or opened.mode not in ("L", "RGB") or too_large(opened, decoding):
                return None
            components = bytes(layer[0] for layer in getattr(opened, "layer", ()))
            if opened.mode == "RGB" and (opened.info.get("adobe_transform") == 0 or components == b"RGB"):
                return None
            return Jpeg(_tensor(data), opened.getexif().get(ExifTags.Base.Orientation, 1), shape)
    except Exception:  # Pillow, to which it is left, raises it again
        return None


def decode(files: Sequence[Tensor], channels: int, device: torch.device) -> list[Tensor | None]:
    """Pixels uint8 (C, H, W) on the device of each JPEG, as they are stored; None for what it refuses.

    Args:
        files: At least one, each uint8 (n,) on the CPU.
        channels: 1 for luma, 3 for RGB.
        device: CUDA, or the CPU for libjpeg.
    """
    if device.type == "cuda":
        # torchvision decodes on a stream of its own, which does not wait for this one: memory that was freed here and
        # is given to it may still be read by kernels of this stream
        torch.cuda.current_stream(device).synchronize()
    try:
        return _call(files, channels, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of any file: there are no partial results
        return [None] if len(files) == 1 else [decode([file], channels, device)[0] for file in files]


def upright(pixels: Tensor, orientation: int) -> Tensor:
    """Pixels (..., H, W) as they are to be seen. On CUDA, torchvision's ``apply_exif_orientation`` does nothing."""
    return _UPRIGHT[orientation](pixels) if orientation in _UPRIGHT else pixels


def cut(pixels: Tensor, wanted: Cut) -> Tensor:
    """A cut of an upright image uint8 (C, H, W), as uint8 (C, size, size): bilinear with antialiasing."""
    (top, left, height, width), size = wanted
    part = pixels[None, :, top : top + height, left : left + width].float()  # on CUDA, torch resizes no bytes
    return torch.nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)[0].round().byte()


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _call(files: Sequence[Tensor], channels: int, device: torch.device) -> list[Any]:
    decode_jpeg, modes = _torchvision()
    return decode_jpeg(list(files), mode=modes[_MODES[channels]], device=device)


@functools.cache
def _torchvision() -> tuple[Callable[..., Any], Any]:
    """torchvision's decoder of lists of JPEGs, and its modes.

    Since version 0.29 they are deprecated in favour of TorchCodec, and will be removed.

    Raises:
        InvalidValue: This version has none.
    """
    try:  # here, because torchvision takes seconds to import
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        ImageReadMode = decode_jpeg = None
    if decode_jpeg is None or not {"mode", "device"} <= inspect.signature(decode_jpeg).parameters.keys():
        raise InvalidValue(
            f"dataset.decoder=nvjpeg: torchvision {version('torchvision')} has no decode_jpeg for a device, which "
            f"versions 0.26 to 0.29 have; install one of them, or {_REMEDY}"
        )
    text = "The image decoding and encoding capabilities of TorchVision are deprecated"
    warnings.filterwarnings("ignore", text, DeprecationWarning)
    return decode_jpeg, ImageReadMode
