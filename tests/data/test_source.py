"""Conversions of whole sources."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_runner.data.sources.source import content_hash, convert, resize, train_and_test
from ssl_runner.errors import DataError

NOISE = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_gray_is_the_luma_that_pillow_computes():
    gray = convert(NOISE, 1)
    for image, expected in zip(gray, NOISE, strict=True):
        pillow = np.asarray(Image.fromarray(expected.permute(1, 2, 0).numpy()).convert("L"))
        assert np.abs(image[0].numpy().astype(int) - pillow).max() <= 1


def test_gray_becomes_three_equal_channels_and_back_unchanged():
    gray = NOISE[:, :1]
    rgb = convert(gray, 3)
    assert all(torch.equal(rgb[:, channel], gray[:, 0]) for channel in range(3))
    assert torch.equal(convert(rgb, 1), gray)
    assert convert(gray, None) is gray


@pytest.mark.parametrize("size", [7, 13, 41])
def test_resizing_equals_pillows_bicubic_within_rounding(size):
    resized = resize(NOISE, size)
    for image, original in zip(resized, NOISE, strict=True):
        pillow = Image.fromarray(original.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(pillow)).max() <= 1


def test_the_longer_side_is_cropped_evenly():
    wide = torch.zeros(1, 1, 10, 30, dtype=torch.uint8)
    wide[..., 10:20] = 200  # the middle third
    assert torch.equal(resize(wide, 10), torch.full((1, 1, 10, 10), 200, dtype=torch.uint8))


def test_the_current_size_changes_nothing():
    assert resize(NOISE, 20) is NOISE
    assert resize(NOISE, None) is NOISE


def test_the_hash_distinguishes_pixels_shapes_and_treatment():
    pixels = NOISE.numpy()
    changed = pixels.copy()
    changed[0, 0, 0, 0] ^= 1
    hashes = [content_hash(pixels), content_hash(changed), content_hash(pixels.reshape(3, -1)), content_hash(pixels, 8)]
    assert len(set(hashes)) == 4
    assert content_hash(pixels) == content_hash(pixels.copy())


def test_train_and_test_parts_are_joined_in_order_with_an_axis_for_gray():
    images = [np.full((3, 2, 2), 7, np.uint8), np.full((2, 2, 2), 9, np.uint8)]
    source = train_and_test("toy", images, [np.array([0, 1, 0]), np.array([1, 0])], ["a", "b"], None, None)
    assert source.images.shape == (5, 1, 2, 2)
    assert source.images[:, 0, 0, 0].tolist() == [7, 7, 7, 9, 9]
    assert source.labels.tolist() == [0, 1, 0, 1, 0]
    assert {part: indices.tolist() for part, indices in source.official.items()} == {"train": [0, 1, 2], "test": [3, 4]}


def test_impossible_channels_and_sizes_are_refused():
    with pytest.raises(DataError, match=r"dataset\.channels=2"):
        convert(NOISE, 2)
    with pytest.raises(DataError, match=r"dataset\.size=0"):
        resize(NOISE, 0)
