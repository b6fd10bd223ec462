"""Compares an exported encoder with the original on real images, by the very lines that people are given."""

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ssl_runner.config.building import build
from ssl_runner.config.stored import read_config
from ssl_runner.data.sources.digits import pixels_and_labels
from ssl_runner.errors import UserError
from ssl_runner.export.source import Trained
from ssl_runner.models.features import evaluating
from ssl_runner.runtime.no_download import no_download

COUNT = 64  # images
ODD = 13  # of them, in a second batch: the size of a batch must not be fixed


@dataclass(frozen=True)
class Difference:
    """How far an export is from the original.

    Attributes:
        largest: Largest absolute difference of a feature.
        feature: Largest absolute feature of the original.
        n: Number of images.
        images: Where they are from.
    """

    largest: float
    feature: float
    n: int
    images: str


def real_images(source: Trained) -> tuple[Tensor, str]:
    """Up to 64 images uint8 (N, C, H, W) for the encoder, and where they are from.

    They are test images of the run if they are on this machine, and scikit-learn's digits otherwise.
    """
    shape = source.encoder.input_shape
    if source.folder is not None:
        try:
            config: Any = read_config(source.folder / "config.yaml", str(source.folder))
            with no_download() as absent:
                test = build(dict(config.dataset), "dataset").test
            if not absent and tuple(test.images.shape[1:]) == shape and len(test):
                step = max(1, len(test) // COUNT)
                return test.images[::step][:COUNT].contiguous(), f"test images of {test.name}"
        except (UserError, OSError, AttributeError):  # data that was moved or deleted: digits do as well
            pass
    channels, height, width = shape
    pixels, _ = pixels_and_labels()
    enlarged = [ImageOps.fit(Image.fromarray(digit[0]), (width, height)) for digit in pixels[:COUNT]]
    images = torch.from_numpy(np.stack([np.asarray(image) for image in enlarged]))[:, None]
    return images.expand(-1, channels, -1, -1).contiguous(), "digits"


def difference(source: Trained, lines: Sequence[str], array: bool, rgb: bool) -> Difference:
    """The largest difference between the original's features and those that the lines compute.

    Args:
        source: The original.
        lines: Python, see `Format.lines`; written by this package, and executed.
        array: Whether the lines take a NumPy array.
        rgb: Whether they take RGB images whatever the encoder takes.
    """
    images, where = real_images(source)
    with evaluating(source.encoder):
        expected = source.encoder(images).float()
    given = images.expand(-1, 3, -1, -1).contiguous() if rgb else images
    found = torch.cat([run_lines(lines, part.numpy() if array else part) for part in (given[ODD:], given[:ODD])])
    expected = torch.cat([expected[ODD:], expected[:ODD]])
    if found.shape != expected.shape or not found.isfinite().all():
        return Difference(math.inf, 1.0, len(images), where)
    return Difference((found - expected).abs().max().item(), expected.abs().max().item(), len(images), where)


def run_lines(lines: Sequence[str], images: Any) -> Tensor:
    """What the lines leave in ``features``, as float32 on the CPU."""
    names: dict[str, Any] = {"images": images}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        exec("\n".join(lines), names)
    return torch.as_tensor(names["features"]).detach().float().cpu()
