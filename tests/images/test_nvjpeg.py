"""JPEGs that a device decodes. The CPU stands for CUDA: the same code, with libjpeg in the place of nvJPEG."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ssl_runner.errors import InvalidValue
from ssl_runner.images import cutting, nvjpeg
from ssl_runner.images.cutting import Box, Cut
from ssl_runner.images.decoding import Decoding

CPU = torch.device("cpu")
COLOR, GRAY = Decoding(8, 3), Decoding(8, 1)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def smooth(height: int = 43, width: int = 61) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **how) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(smooth(), exif=exif)


def by_pillow(data: bytes, mode: str = "RGB") -> torch.Tensor:
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode)
    return torch.from_numpy(np.atleast_3d(np.array(upright))).permute(2, 0, 1)


def left_to_device(data: bytes, decoding: Decoding = COLOR) -> nvjpeg.Jpeg:
    found = nvjpeg.jpeg(data, (0, 0), decoding)
    assert found is not None
    return found


def whole(data: bytes, decoding: Decoding = COLOR, device: torch.device = CPU) -> torch.Tensor:
    """The upright pixels by way of the device."""
    found = left_to_device(data, decoding)
    pixels = nvjpeg.decode([found.data], decoding.channels, device)[0]
    assert pixels is not None and pixels.device.type == device.type
    return nvjpeg.upright(pixels, found.orientation).cpu()


@pytest.mark.parametrize("how", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 20}], ids=str)
def test_colors_are_those_of_pillow(how):
    assert torch.equal(whole(encoded(smooth(), **how)), by_pillow(encoded(smooth(), **how)))


def test_a_gray_file_may_become_rgb_and_stays_gray_otherwise():
    data = encoded(smooth().convert("L"))
    assert torch.equal(whole(data), by_pillow(data))
    assert torch.equal(whole(data, GRAY), by_pillow(data, "L"))


def test_gray_of_a_color_file_is_its_luma():
    found, expected = whole(encoded(smooth()), GRAY), by_pillow(encoded(smooth()), "L")
    assert found.shape == expected.shape
    assert (found.int() - expected.int()).abs().float().mean() < 0.6  # Pillow computes it from rounded colors


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 are none
def test_every_orientation_becomes_upright(orientation):
    assert torch.equal(whole(turned(orientation)), by_pillow(turned(orientation)))


@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_cuts_are_those_of_pillow_but_for_rounding(orientation):
    data = turned(orientation)
    height, width = by_pillow(data).shape[1:]
    cuts = [Cut(Box(3, 5, 30, 20), 24), Cut(Box(0, 0, height, width), 24), Cut(Box(10, 12, 3, 5), 8)]
    expected = cutting.cut(data, (height, width), cuts, COLOR, lambda: "it")
    for one, other in zip(cuts, expected, strict=True):
        found = nvjpeg.cut(whole(data), one)
        assert found.dtype == torch.uint8 and found.shape == other.shape
        assert (found.int() - other.int()).abs().max() <= 1


def test_cuts_of_a_large_photograph_are_nearly_those_of_its_reduced_version():
    """Which is what Pillow decodes."""
    data, one = encoded(smooth(800, 1200), quality=95), Cut(Box(100, 200, 640, 800), 64)
    expected = cutting.cut(data, (800, 1200), [one], COLOR, lambda: "it")[0]
    assert (nvjpeg.cut(whole(data), one).int() - expected.int()).abs().float().mean() < 1


def test_only_jpegs_in_rgb_or_gray_are_for_a_device():
    image, shape = smooth(), (43, 61)
    assert nvjpeg.jpeg(encoded(image), shape, COLOR) is not None
    left = {
        "png": encoded(image, "PNG"),
        "webp": encoded(image, "WEBP"),
        "cmyk": encoded(image.convert("CMYK")),
        "stored as RGB": encoded(image, keep_rgb=True),
        "several pictures": encoded(image, "MPO", save_all=True, append_images=[image]),
        "cut short in its header": encoded(image)[:100],
        "empty": b"",
    }
    assert [name for name, data in left.items() if nvjpeg.jpeg(data, shape, COLOR) is not None] == []
    for changed in (Decoding(8, 3, invert=True), Decoding(8, 3, value_range=[0, 100])):
        assert nvjpeg.jpeg(encoded(image), shape, changed) is None
    assert nvjpeg.jpeg(encoded(image), shape, Decoding(8, 3, max_megapixels=0.001)) is None


def test_a_file_that_is_refused_does_not_spoil_the_others():
    tensors = [left_to_device(encoded(smooth(20 + n, 30))).data for n in range(3)]
    tensors[1] = tensors[1][:400]
    found = nvjpeg.decode(tensors, 3, CPU)
    assert [None if one is None else tuple(one.shape) for one in found] == [(3, 20, 30), None, (3, 22, 30)]


def test_memory_that_runs_out_is_no_refusal(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(nvjpeg, "_call", full)
    with pytest.raises(torch.OutOfMemoryError):
        nvjpeg.decode([torch.zeros(3, dtype=torch.uint8)] * 2, 3, CPU)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_a_device_without_cuda_is_refused_with_what_to_do(device):
    with pytest.raises(InvalidValue, match=rf"needs a CUDA device, but .*'{device}'; set dataset\.decoder=pillow, or"):
        nvjpeg.refuse_without(torch.device(device))


def test_a_torchvision_that_decodes_passes_the_probe():
    nvjpeg.probe(CPU)


def test_a_torchvision_without_nvjpeg_is_refused_with_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("here is a GPU, on which torchvision decodes")
    with pytest.raises(InvalidValue, match=r"torchvision \S+ does not decode JPEGs on cuda \(.*pillow$"):
        nvjpeg.probe(torch.device("cuda"))


@pytest.mark.parametrize("missing", [True, False], ids=["no function", "another signature"])
def test_a_torchvision_without_the_function_is_refused_with_what_to_do(missing, monkeypatch):
    import torchvision.io

    nvjpeg._torchvision.cache_clear()
    if missing:
        monkeypatch.delattr(torchvision.io, "decode_jpeg")
    else:
        monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda input: input)
    with pytest.raises(InvalidValue, match=r"torchvision \S+ has no decode_jpeg for a device.*decoder=pillow"):
        nvjpeg.probe(CPU)
    nvjpeg._torchvision.cache_clear()


def test_only_the_deprecation_of_torchvisions_decoders_is_silent():
    nvjpeg._torchvision.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nvjpeg.probe(CPU)
        warnings.warn("another function is deprecated", DeprecationWarning, stacklevel=1)
    nvjpeg._torchvision.cache_clear()
    assert [str(warning.message) for warning in caught] == ["another function is deprecated"]


@on_gpu
@pytest.mark.parametrize("decoding", [COLOR, GRAY], ids=["color", "gray"])
def test_nvjpeg_gives_nearly_the_pixels_of_pillow(decoding):
    device = torch.device("cuda")
    nvjpeg.refuse_without(device)
    files = [encoded(smooth(300, 400), quality=95), turned(6), encoded(smooth().convert("L")), turned(7)]
    for data in files:
        found, expected = whole(data, decoding, device), by_pillow(data, "RGB" if decoding is COLOR else "L")
        assert found.shape == expected.shape
        assert (found.int() - expected.int()).abs().float().mean() < 2
    tensors = [left_to_device(data, decoding).data for data in files]
    tensors[1] = tensors[1][:50]
    assert [one is None for one in nvjpeg.decode(tensors, decoding.channels, device)] == [False, True, False, False]
