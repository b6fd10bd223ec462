"""Files to pixels."""

import numpy as np
import pytest
from PIL import Image

from ssl_runner.data.sources.decode_folder import CHUNK, Findings, decode_all
from ssl_runner.errors import DataError
from ssl_runner.images.decoding import Decoding, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    return path


def test_a_lossless_file_returns_its_pixels(picture):
    decoded = decode(picture, Decoding(None, 3))
    assert np.array_equal(decoded, PIXELS.transpose(2, 0, 1))
    assert decoded.flags.c_contiguous


def test_gray_has_one_channel_and_invert_turns_paper_into_black(picture):
    gray = decode(picture, Decoding(None, 1))
    assert np.array_equal(gray[0], np.asarray(Image.fromarray(PIXELS).convert("L")))
    assert np.array_equal(decode(picture, Decoding(None, 1, invert=True)), 255 - gray)


def test_the_shorter_side_is_resized_and_the_center_cropped(tmp_path):
    tall = np.zeros((30, 10, 3), np.uint8)
    tall[10:20] = 200
    Image.fromarray(tall).save(tmp_path / "tall.png")
    assert np.array_equal(decode(tmp_path / "tall.png", Decoding(10, 3)), np.full((3, 10, 10), 200))


def test_shrinking_uses_every_pixel(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    shrunk = decode(tmp_path / "stripes.png", Decoding(8, 1))
    assert np.abs(shrunk.astype(int) - 127).max() < 20  # picking pixels would give all 0 or all 255


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)).save(tmp_path / "deep.png")
    assert decode(tmp_path / "deep.png", Decoding(None, 1)).ravel().tolist() == list(range(0, 256, 16))


def test_photographs_are_upright(tmp_path):
    smooth = np.zeros((16, 32, 3), np.uint8)
    smooth[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was rotated by 90 degrees
    Image.fromarray(smooth).save(tmp_path / "turned.png", exif=exif)
    upright = decode(tmp_path / "turned.png", Decoding(None, 3))
    assert upright.shape == (3, 32, 16)
    assert upright[:, :16].min() == 255
    assert upright[:, 16:].max() == 0


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_damaged_image_is_named(tmp_path, suffix, keep):
    path = tmp_path / f"damaged.{suffix}"
    Image.fromarray(PIXELS).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=f"{path} cannot be decoded .*replace or delete"):
        decode(path, Decoding(8, 3))


def test_a_file_that_is_not_an_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(DataError, match=r"text\.png cannot be decoded"):
        decode(tmp_path / "text.png", Decoding(8, 3))


def test_files_stay_in_order_across_chunks(tmp_path):
    paths = []
    for shade in range(7):
        Image.new("L", (2, 2), shade).save(tmp_path / f"{shade}.png")
        paths.append(tmp_path / f"{shade}.png")
    order = [(5 * i) % 7 for i in range(CHUNK + 3)]
    chunks = list(decode_all([paths[i] for i in order], Decoding(None, 1), Findings()))
    assert [len(chunk) for chunk in chunks] == [CHUNK, 3]
    assert np.concatenate(chunks)[:, 0, 0, 0].tolist() == order


def test_different_sizes_without_a_size_name_the_file(tmp_path, picture):
    Image.new("RGB", (5, 4)).save(tmp_path / "other.png")
    with pytest.raises(DataError, match=r"other\.png has 5 x 4 pixels, but .*picture\.png has 8 x 12; set"):
        list(decode_all([picture, tmp_path / "other.png"], Decoding(None, 3), Findings()))


def test_impossible_decodings_are_refused():
    with pytest.raises(DataError, match=r"dataset\.channels=None"):
        Decoding(8, None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"dataset\.size=0"):
        Decoding(0, 3)
