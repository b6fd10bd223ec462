"""Boxes of an image's original pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as V

from ssl_runner.errors import DataError
from ssl_runner.images.cutting import Box, Cut, cut, fit
from ssl_runner.images.decoding import Decoding, decode

COLOR = Decoding(8, 3)


def smooth(height: int, width: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **how) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def named() -> str:
    return "zoo/cat.jpg"


def test_a_cut_is_what_torchvision_makes_of_the_box():
    image = smooth(90, 120)
    boxes = [Box(10, 20, 60, 30), Box(0, 0, 90, 120), Box(70, 100, 3, 5)]
    cuts = cut(encoded(image, "PNG"), (90, 120), [Cut(box, 24) for box in boxes], COLOR, named)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for box, found in zip(boxes, cuts, strict=True):
        assert torch.equal(found, V.resized_crop(pixels, *box, [24, 24], antialias=True))


def test_gray_images_have_one_channel():
    found = cut(encoded(smooth(20, 30), "PNG"), (20, 30), [Cut(Box(0, 0, 20, 20), 8)], Decoding(8, 1), named)[0]
    gray = torch.from_numpy(np.array(smooth(20, 30).convert("L")))[None]
    assert torch.equal(found, V.resized_crop(gray, 0, 0, 20, 20, [8, 8], antialias=True))


def test_boxes_are_those_of_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was rotated by 90 degrees
    image = smooth(40, 60)
    found = cut(encoded(image, "PNG", exif=exif), (60, 40), [Cut(Box(30, 0, 30, 40), 16)], COLOR, named)[0]
    upright = torch.from_numpy(np.array(image.rotate(-90, expand=True))).permute(2, 0, 1)
    assert torch.equal(found, V.resized_crop(upright, 30, 0, 30, 40, [16, 16], antialias=True))


def test_a_large_photograph_is_decoded_smaller_with_nearly_the_same_result(monkeypatch):
    data, box = encoded(smooth(800, 1200), "JPEG", quality=95), Box(100, 200, 640, 800)
    sizes, original = [], Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda image, area: (sizes.append(image.size), original(image, area))[1])
    found = cut(data, (800, 1200), [Cut(box, 64)], COLOR, named)[0]
    whole = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)
    expected = V.resized_crop(whole, *box, [64, 64], antialias=True)
    assert sizes == [(300, 200)]
    assert (found.int() - expected.int()).abs().float().mean() < 1


def test_one_small_box_keeps_a_photograph_at_its_full_size():
    data = encoded(smooth(400, 600), "JPEG")
    large, small = Cut(Box(0, 0, 400, 600), 16), Cut(Box(50, 60, 20, 20), 16)
    together = cut(data, (400, 600), [large, small], COLOR, named)[1]
    assert torch.equal(together, cut(data, (400, 600), [small], COLOR, named)[0])


def test_the_middle_is_exactly_what_a_file_gives(tmp_path):
    for kind in ("JPEG", "PNG"):
        data = encoded(smooth(50, 70), kind)
        (tmp_path / "file").write_bytes(data)
        assert np.array_equal(fit(data, COLOR, named), decode(tmp_path / "file", COLOR))


def test_a_damaged_image_is_named():
    data = encoded(smooth(50, 70), "JPEG")[:300]
    with pytest.raises(DataError, match=r"^zoo/cat\.jpg cannot be decoded"):
        cut(data, (50, 70), [Cut(Box(0, 0, 50, 70), 8)], COLOR, named)
    with pytest.raises(DataError, match=r"^zoo/cat\.jpg cannot be decoded"):
        fit(data, COLOR, named)


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded():
    with pytest.raises(DataError, match=r"zoo/cat\.jpg has 1,000 x 1,000 pixels.*max_megapixels=2"):
        data = encoded(Image.new("RGB", (1000, 1000)), "PNG")
        cut(data, (1000, 1000), [Cut(Box(0, 0, 9, 9), 8)], Decoding(8, 3, max_megapixels=0.5), named)
