"""Every mode of Pillow as 8 bits."""

import numpy as np
import pytest
from PIL import Image

from ssl_runner.errors import DataError
from ssl_runner.images.decoding import Decoding, decode

RAMP = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
COLORS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def read(path, channels=3, **keys):
    return decode(path, Decoding(None, channels, **keys)).transpose(1, 2, 0)


def saved(tmp_path, image, name, **keys):
    image.save(tmp_path / name, **keys)
    return tmp_path / name


def test_floats_from_0_to_1_become_0_to_255(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP), "ramp.tif")
    assert np.array_equal(read(path, 1)[..., 0], np.round(RAMP * 255))


@pytest.mark.parametrize("values", [RAMP * 255, RAMP - 0.5])
def test_other_floats_need_a_range_which_the_message_offers(tmp_path, values):
    path = saved(tmp_path, Image.fromarray(values), "ramp.tif")
    span = [float(values.min()), float(values.max())]
    with pytest.raises(DataError, match=rf"its values lie in .*dataset\.value_range=\[{span[0]:g},{span[1]:g}\]"):
        read(path)
    assert np.array_equal(read(path, 1, value_range=span)[..., 0], np.round(RAMP * 255))


def test_a_float_that_is_not_a_number_is_refused(tmp_path):
    values = RAMP.copy()
    values[0, 0], values[1, 1] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 of its 16 values are not finite numbers"):
        read(saved(tmp_path, Image.fromarray(values), "ramp.tif"))


@pytest.mark.parametrize(("bits", "shift"), [(8, 0), (10, 2), (12, 4), (14, 6), (16, 8)])
@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bit_files_are_read_with_the_bits_that_they_use(tmp_path, name, bits, shift):
    values = np.round(RAMP.astype(np.float64) * (2**bits - 1)).astype(np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    assert np.array_equal(read(path, 1)[..., 0], values >> shift)
    assert np.array_equal(read(path, 1, bits=16)[..., 0], values >> 8)


def test_big_endian_files_are_read_like_others(tmp_path):
    values = np.round(RAMP.astype(np.float64) * 65535).astype(np.uint16)
    image = Image.frombytes("I;16B", (4, 4), values.astype(">u2").tobytes())
    assert np.array_equal(read(saved(tmp_path, image, "deep.tif"), 1)[..., 0], values >> 8)


def test_integers_of_32_bits_beyond_65535_need_a_range(tmp_path):
    values = np.arange(16, dtype=np.int32).reshape(4, 4) * 10_000
    path = saved(tmp_path, Image.fromarray(values), "deep.tif")
    with pytest.raises(DataError, match=r"dataset\.value_range=\[0,150000\]"):
        read(path)
    assert read(path, 1, value_range=[0, 150_000])[..., 0].ravel().tolist() == [17 * number for number in range(16)]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("name", ["glyph.png", "glyph.webp", "glyph.tif"])
def test_a_shape_made_only_of_transparency_is_visible(tmp_path, mode, name):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 2:6, 3] = 255
    keys = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, Image.fromarray(pixels).convert(mode), name, **keys)
    expected = np.full((8, 8, 3), 128)
    expected[2:6, 2:6] = 0
    assert np.array_equal(read(path), expected)
    assert read(path, background=[255, 10, 20])[0, 0].tolist() == [255, 10, 20]


def test_colors_under_full_transparency_do_not_matter(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., :3] = COLORS
    assert (
        read(saved(tmp_path, Image.fromarray(pixels), "clear.png"), background=7).tolist()
        == np.full((8, 8, 3), 7).tolist()
    )


def test_transparent_colors_of_palettes_and_pngs_show_the_background(tmp_path):
    palette = Image.fromarray(np.zeros((4, 4), np.uint8), "P")
    palette.putpalette([200, 0, 0])
    assert read(saved(tmp_path, palette, "palette.png", transparency=0), background=9)[0, 0].tolist() == [9, 9, 9]
    gray = Image.fromarray(np.full((4, 4), 50, np.uint8))
    assert read(saved(tmp_path, gray, "gray.png", transparency=50), background=9)[0, 0].tolist() == [9, 9, 9]
    color = Image.fromarray(np.full((4, 4, 3), 50, np.uint8))
    path = saved(tmp_path, color, "color.png", transparency=(50, 50, 50))
    assert read(path, background=9)[0, 0].tolist() == [9, 9, 9]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "name"), [("LAB", "a.tif"), ("YCbCr", "a.tif"), ("CMYK", "a.tif"), ("HSV", "a.png")])
def test_other_color_spaces_are_converted_for_gray_and_for_color(tmp_path, mode, name, channels):
    smooth = Image.fromarray(np.kron(COLORS[:2, :2], np.ones((4, 4, 1), np.uint8)))
    image = smooth.convert(mode)
    if mode == "HSV":  # no file format has this mode
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - np.asarray(smooth)).max() <= 3
        return
    expected = np.asarray(smooth.convert("L" if channels == 1 else "RGB")).reshape(8, 8, channels).astype(int)
    # 8-bit LAB is coarse, and some of the colors are at the edge of sRGB
    assert np.abs(read(saved(tmp_path, image, name), channels) - expected).max() <= (16 if mode == "LAB" else 4)


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    assert np.array_equal(read(saved(tmp_path, image, "bits.png"), 1)[..., 0], np.eye(8) * 255)


def test_inks_of_a_jpeg_are_inverted_if_its_writer_says_so(tmp_path):
    inks = Image.new("CMYK", (16, 16), (200, 30, 30, 10))
    path = saved(tmp_path, inks, "adobe.jpg", quality=95)
    expected = np.asarray(inks.convert("RGB"))[0, 0].astype(int)
    assert np.abs(read(path)[0, 0] - expected).max() <= 4
    content = path.read_bytes()
    start = content.index(b"\xff\xeeadobe".replace(b"adobe", b"\x00\x0eAdobe"))
    (tmp_path / "plain.jpg").write_bytes(content[:start] + content[start + 16 :])  # without the marker: not inverted
    opposite = np.asarray(Image.new("CMYK", (1, 1), (55, 225, 225, 245)).convert("RGB"))[0, 0].astype(int)
    assert np.abs(read(tmp_path / "plain.jpg")[0, 0] - opposite).max() <= 4


def test_a_value_range_also_applies_to_8_bits(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)), "mask.png")
    assert read(path, 1, value_range=[0, 15])[..., 0].ravel().tolist() == [17 * number for number in range(16)]
    assert read(path, 1, value_range=[5, 10])[..., 0].ravel().tolist()[:6] == [0] * 6


@pytest.mark.parametrize(
    "keys", [{"background": 256}, {"background": [1, 2]}, {"value_range": [1, 1]}, {"max_megapixels": 0}]
)
def test_values_out_of_range_are_refused(keys):
    with pytest.raises(DataError, match=rf"dataset\.{next(iter(keys))}="):
        Decoding(8, 3, **keys)


def test_an_image_with_too_many_pixels_is_refused_and_can_be_allowed(tmp_path):
    path = saved(tmp_path, Image.new("1", (2000, 1000)), "large.png")
    with pytest.raises(DataError, match=r"2,000 x 1,000 pixels, more than 1 million\); .*dataset\.max_megapixels=3"):
        decode(path, Decoding(8, 1, max_megapixels=1))
    assert decode(path, Decoding(8, 1, max_megapixels=2)).shape == (1, 8, 8)
