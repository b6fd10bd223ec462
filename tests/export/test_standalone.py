"""Preprocessing as tensor operations gives the pixels that Pillow gives."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ssl_runner.export.standalone import fitted, gray


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("size", [(16, 16), (61, 47), (47, 61), (200, 333), (7, 9), (16, 40), (1, 1)])
def test_resizing_and_cropping_are_pillows(size):
    pixels = picture(*size)
    expected = np.asarray(ImageOps.fit(Image.fromarray(pixels), (16, 16), Image.Resampling.LANCZOS)).astype(int)
    found = fitted(tensor(pixels), 16)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.01


def test_an_image_of_the_right_size_is_unchanged():
    pixels = tensor(picture(16, 16))
    assert torch.equal(fitted(pixels, 16), pixels)


def test_gray_values_are_pillows():
    levels = np.array([0, 1, 2, 63, 127, 128, 254, 255], dtype=np.uint8)
    every = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(8, 64, 3)
    pixels = np.concatenate([every, picture(200, 64)])
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(gray(tensor(pixels))[0, 0].numpy(), expected)


def test_gray_levels_in_three_channels_stay_what_they_are():
    levels = torch.arange(256).view(1, 1, 16, 16).float()
    assert torch.equal(gray(levels.expand(-1, 3, -1, -1)), levels)
