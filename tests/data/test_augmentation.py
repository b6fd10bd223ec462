import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms.v2 import functional as TF

from ssl_runner.data.augmentation import (
    Affine,
    Augmentation,
    ColorJitter,
    GaussianBlur,
    HorizontalFlip,
    PadCrop,
    RandomErasing,
    RandomGrayscale,
    RandomResizedCrop,
    Solarize,
    transform,
)
from ssl_runner.models.network import Encoder


def every_transform(probability=0.5):
    # solarize comes first: a rounding error at its threshold would invert a value
    return {
        "solarize": Solarize(threshold=0.5, probability=probability),
        "crop": RandomResizedCrop(size=None, scale=[0.2, 1.0], ratio=[0.75, 1.3333]),
        "flip": HorizontalFlip(probability),
        "affine": Affine(degrees=20, translate=0.1, scale=[0.8, 1.2], shear=10, fill=0.3),
        "jitter": ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=probability),
        "grayscale": RandomGrayscale(probability),
        "blur": GaussianBlur(kernel_size=5, sigma=[0.5, 2.0], probability=probability),
        "erasing": RandomErasing(probability, scale=[0.02, 0.33], ratio=[0.3, 3.3], value=0.0),
        "shift": PadCrop(padding=2),
    }


def batch(images, channels=3, height=12, width=15, seed=0):
    return torch.randint(0, 256, (images, channels, height, width), generator=seeded(seed), dtype=torch.uint8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def draws_for(transform, images, seed=1):
    return torch.rand(images, transform.columns, generator=seeded(seed))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    height=st.integers(4, 20),
    width=st.integers(4, 20),
    probability=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_images_stay_images_of_their_shape_in_zero_to_one(seed, images, channels, height, width, probability):
    augmentation = Augmentation(every_transform(probability))
    pixels = batch(images, channels, height, width, seed)
    views = augmentation(pixels, draws_for(augmentation, images, seed))
    assert views.shape == pixels.shape
    assert views.dtype == torch.float32
    assert views.isfinite().all()
    assert views.min() >= 0
    assert views.max() <= 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 16), start=st.integers(0, 15))
def test_a_view_depends_only_on_its_own_row(seed, size, start):
    augmentation = Augmentation(every_transform())
    pixels, draws = batch(16, seed=seed), draws_for(augmentation, 16, seed)
    rows = (torch.arange(size) + start) % 16
    together, apart = augmentation(pixels, draws)[rows], augmentation(pixels[rows], draws[rows])
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=0)


def test_the_order_of_the_rows_changes_no_bit():
    augmentation = Augmentation(every_transform())
    pixels, draws = batch(32), draws_for(augmentation, 32)
    order = torch.randperm(32, generator=seeded(3))
    assert torch.equal(augmentation(pixels[order], draws[order]), augmentation(pixels, draws)[order])


@pytest.mark.parametrize(
    "cached", [1, 3 * 12 * 15 * 4 * 4, 3 * 12 * 15 * 4 * 7]
)  # pieces of 1, of up to 4 and 7 images
def test_pieces_that_fit_into_the_cache_change_no_bit(cached, monkeypatch):
    augmentation, pixels = Augmentation(every_transform()), batch(10)
    draws = draws_for(augmentation, 10)
    whole = augmentation(pixels, draws)
    monkeypatch.setattr(transform, "CACHED", cached)
    assert torch.equal(augmentation(pixels, draws), whole)


def test_equal_images_with_different_draws_give_different_views():
    augmentation = Augmentation(every_transform())
    pixels = batch(1).expand(16, -1, -1, -1)
    views = augmentation(pixels, draws_for(augmentation, 16)).flatten(1)
    assert torch.cdist(views, views).add(torch.eye(16)).min() > 0.1


def test_equal_draws_give_equal_views_of_equal_images():
    augmentation = Augmentation(every_transform())
    pixels, draws = batch(1).expand(8, -1, -1, -1), draws_for(augmentation, 1).expand(8, -1)
    views = augmentation(pixels, draws)
    torch.testing.assert_close(views, views[:1].expand_as(views), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", every_transform())
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_the_callers_tensors_are_never_written_to(name, probability):
    transform = every_transform(probability)[name]
    images, draws = batch(8) / 255, draws_for(transform, 8)
    images_before, draws_before = images.clone(), draws.clone()
    transform(images, draws)
    assert torch.equal(images, images_before)
    assert torch.equal(draws, draws_before)


CHANCE = ["solarize", "flip", "jitter", "grayscale", "blur", "erasing"]


@pytest.mark.parametrize("name", CHANCE)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_with_probability_zero_nothing_changes(name, seed):
    transform = every_transform(0.0)[name]
    images = batch(6, seed=seed) / 255
    assert torch.equal(transform(images, draws_for(transform, 6, seed)), images)
    assert torch.equal(transform(images, torch.zeros(6, transform.columns)), images)


@pytest.mark.parametrize("name", CHANCE)
@given(seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_with_probability_one_every_image_changes(name, seed):
    transform = every_transform(1.0)[name]
    images = batch(6, seed=seed) / 255
    for draws in (draws_for(transform, 6, seed), torch.full((6, transform.columns), 1 - 2**-24)):
        changed = (transform(images, draws) - images).flatten(1).abs().amax(dim=1)
        assert (changed > 0).all()


@pytest.mark.parametrize("name", CHANCE)
def test_the_share_of_changed_images_is_the_probability(name):
    transform = every_transform(0.3)[name]
    images = batch(4000, height=6, width=6) / 255
    changed = (transform(images, draws_for(transform, 4000)) != images).flatten(1).any(dim=1)
    assert abs(changed.float().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4000)


def test_transforms_are_applied_in_the_given_order_each_with_its_own_columns():
    erasing = RandomErasing(1.0, scale=[0.3, 0.3], ratio=[1.0, 1.0], value=1.0)
    solarize = Solarize(threshold=0.5, probability=1.0)
    images = batch(5) / 255
    draws = torch.rand(5, erasing.columns + 1, generator=seeded(2))
    first, last = draws[:, : erasing.columns], draws[:, erasing.columns :]
    forwards = Augmentation({"erasing": erasing, "solarize": solarize})
    assert forwards.columns == erasing.columns + 1
    assert torch.equal(forwards(images, draws), solarize(erasing(images, first), last))
    backwards = Augmentation({"solarize": solarize, "erasing": erasing})
    first, last = draws[:, :1], draws[:, 1:]
    assert torch.equal(backwards(images, draws), erasing(solarize(images, first), last))


def test_bytes_and_floats_give_the_same_views():
    augmentation = Augmentation(every_transform())
    pixels, draws = batch(8), draws_for(augmentation, 8)
    assert torch.equal(augmentation(pixels, draws), augmentation(pixels / 255, draws))


def test_a_transform_that_is_null_is_left_out():
    assert Augmentation({"flip": HorizontalFlip(0.5), "blur": None}).columns == 1


def test_without_transforms_images_are_only_scaled():
    pixels = batch(4)
    assert torch.equal(Augmentation({})(pixels, torch.empty(4, 0)), pixels / 255)


@pytest.mark.parametrize("shape", [(4, 2), (3, 1), (4, 0)])
def test_draws_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(4, 1\)"):
        Augmentation({"flip": HorizontalFlip(0.5)})(batch(4), torch.rand(shape))


def test_an_entry_that_is_not_a_transform_is_refused_by_name():
    with pytest.raises(ValueError, match=r"augmentation\.transforms\.flip is a dict"):
        Augmentation({"flip": {"probability": 0.5}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HorizontalFlip(1.5), r"HorizontalFlip\.probability=1\.5, expected a probability in \[0, 1\]"),
        (lambda: RandomGrayscale(-0.1), r"RandomGrayscale\.probability=-0\.1"),
        (lambda: Solarize(128, 0.2), r"Solarize\.threshold=128, .*0\.5"),
        (lambda: PadCrop(-1), r"PadCrop\.padding=-1"),
        (lambda: RandomResizedCrop(0, [0.2, 1.0], [0.75, 1.33]), r"RandomResizedCrop\.size=0"),
        (lambda: RandomResizedCrop(None, [1.0, 0.2], [0.75, 1.33]), r"scale=\[1\.0, 0\.2\], .*low <= high"),
        (lambda: RandomResizedCrop(None, [0.0, 1.0], [0.75, 1.33]), r"scale=\[0\.0, 1\.0\], .*above 0"),
        (lambda: RandomResizedCrop(None, [0.2, 1.5], [0.75, 1.33]), r"scale=\[0\.2, 1\.5\], .*to 1"),
        (lambda: RandomResizedCrop(None, [0.2, 0.5, 1.0], [0.75, 1.33]), r"scale=\[0\.2, 0\.5, 1\.0\]"),
        (lambda: RandomResizedCrop(None, [0.2, 1.0], [1.33, 0.75]), r"ratio=\[1\.33, 0\.75\]"),
        (lambda: Affine(200, 0.1, [0.8, 1.2], 10, 0), r"Affine\.degrees=200"),
        (lambda: Affine(15, 3, [0.8, 1.2], 10, 0), r"Affine\.translate=3"),
        (lambda: Affine(15, 0.1, [0.0, 1.2], 10, 0), r"Affine\.scale=\[0\.0, 1\.2\]"),
        (lambda: Affine(15, 0.1, [0.8, 1.2], 90, 0), r"Affine\.shear=90"),
        (lambda: Affine(15, 0.1, [0.8, 1.2], 10, 255), r"Affine\.fill=255"),
        (lambda: Affine(15, 0.1, [0.8, 1.2], 10, "edge"), r"Affine\.fill='edge', .*'border'"),  # type: ignore
        (lambda: ColorJitter(-0.4, 0.4, 0.4, 0.1, 0.8), r"ColorJitter\.brightness=-0\.4"),
        (lambda: ColorJitter(0.4, 0.4, 0.4, 0.6, 0.8), r"ColorJitter\.hue=0\.6, .*\[0, 0\.5\]"),
        (lambda: GaussianBlur(4, [0.1, 2.0], 0.5), r"GaussianBlur\.kernel_size=4, expected an odd"),
        (lambda: GaussianBlur(3, [0.0, 2.0], 0.5), r"GaussianBlur\.sigma=\[0\.0, 2\.0\]"),
        (lambda: RandomErasing(0.5, [0.02, 0.33], [0.3, 3.3], 255), r"RandomErasing\.value=255"),
    ],
)
def test_an_impossible_argument_is_refused_with_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["simclr", "light", "glyph", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_option_of_the_config_makes_an_augmentation(name, channels, conf):
    with initialize_config_dir(conf, version_base=None):
        augmentation = instantiate(compose(overrides=[f"+augmentation={name}"]).augmentation, _convert_="all")
    pixels = batch(8, channels, 28, 28)
    views = augmentation(pixels, draws_for(augmentation, 8))
    assert views.shape == pixels.shape
    assert torch.equal(views, pixels / 255) == (name == "none")


def test_a_transform_is_changed_and_dropped_from_the_command_line(conf):
    overrides = ["+augmentation=simclr", "augmentation.transforms.crop.scale=[0.5,1.0]"]
    with initialize_config_dir(conf, version_base=None):
        config = compose(overrides=[*overrides, "augmentation.transforms.jitter=null"])
    augmentation = instantiate(config.augmentation, _convert_="all")
    assert list(augmentation.transforms) == ["crop", "flip", "grayscale"]
    assert augmentation.transforms["crop"].scale == (0.5, 1.0)


@pytest.fixture
def conf(request):
    return str(request.config.rootpath / "conf")


def test_an_encoder_normalises_like_torchvision():
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.1]
    encoder = Encoder(nn.Identity(), (3, 12, 15), mean, std)
    pixels = batch(4)
    expected = TF.normalize(pixels / 255, mean, std)
    torch.testing.assert_close(encoder.prepare(pixels), expected)
    torch.testing.assert_close(encoder.prepare(pixels / 255), expected)
