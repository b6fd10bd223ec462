import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as TF

from ssl_runner.data.augmentation import ColorJitter, GaussianBlur, RandomGrayscale, Solarize, color
from ssl_runner.data.augmentation.blur import gaussian_blur


def images_of(count, channels=3, height=24, width=20, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def close(got, expected, atol=1e-5):
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


def one_by_one(function, images, parameters):
    return torch.cat([function(image[None], value) for image, value in zip(images, parameters.tolist(), strict=True)])


FACTORS = torch.tensor([0.0, 0.3, 0.8, 1.0, 1.4, 2.5])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"])
def test_a_blend_equals_torchvisions(name, channels):
    images = images_of(6, channels)
    close(getattr(color, name)(images, FACTORS), one_by_one(getattr(TF, name), images, FACTORS))


@settings(max_examples=30, deadline=None)
@given(shifts=st.lists(st.floats(-0.5, 0.5, width=32), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_a_shift_of_hue_equals_torchvisions(shifts, seed):
    images, shifts = images_of(len(shifts), seed=seed), torch.tensor(shifts)
    close(color.adjust_hue(images, shifts), one_by_one(TF.adjust_hue, images, shifts))


def corners():
    """Colors where the hexagon's sectors meet, (1, 3, 5, 25): every triple of five levels."""
    levels = torch.linspace(0, 1, 5)
    return torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 5, 25)


@pytest.mark.parametrize("shift", [-0.5, -1 / 3, -1 / 6, -0.1, 0.0, 0.1, 1 / 6, 1 / 3, 0.5])
def test_a_shift_of_hue_equals_torchvisions_if_channels_are_equal(shift):
    close(color.adjust_hue(corners(), torch.tensor([shift])), TF.adjust_hue(corners(), shift))


def test_a_third_of_a_turn_moves_each_channel_to_the_next():
    images = torch.cat([corners(), corners()])
    red, green, blue = corners().unbind(1)
    turned = color.adjust_hue(images, torch.tensor([1 / 3, -1 / 3]))
    close(turned[:1], torch.stack([blue, red, green], 1))
    close(turned[1:], torch.stack([green, blue, red], 1))


def test_no_turn_and_factors_of_one_change_nothing():
    images, one = images_of(4), torch.ones(4)
    close(color.adjust_hue(images, one * 0), images, atol=1e-6)
    for adjust in (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation):
        close(adjust(images, one), images, atol=1e-6)


def test_gray_equals_torchvisions_with_as_many_channels_as_before():
    images = images_of(3)
    gray = RandomGrayscale(1.0)(images, torch.rand(3, 1))
    close(gray, TF.rgb_to_grayscale(images, num_output_channels=3), atol=1e-6)


@pytest.mark.parametrize("transform", [ColorJitter(0.0, 0.0, 0.5, 0.5, 1.0), RandomGrayscale(1.0)])
def test_gray_images_have_no_color_to_lose(transform):
    images = images_of(4, channels=1)
    assert torch.equal(transform(images, torch.rand(4, transform.columns)), images)


def test_images_with_two_channels_are_refused():
    with pytest.raises(ValueError, match="images have 2 channels, expected 1 or 3"):
        RandomGrayscale(1.0)(images_of(2, channels=2), torch.zeros(2, 1))


def test_jitter_changes_brightness_contrast_saturation_and_hue_of_the_chosen():
    jitter = ColorJitter(brightness=0.4, contrast=0.5, saturation=0.6, hue=0.2, probability=0.5)
    images, draws = images_of(12), torch.rand(12, 5, generator=torch.Generator().manual_seed(3))
    chosen, factors = jitter.parameters(draws, 24, 20)
    assert 0 < chosen.sum() < 12
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    expected = []
    for image, choose, row in zip(images, chosen, factors.tolist(), strict=True):
        image = image[None]
        for step, factor in zip(steps, row, strict=True):
            image = step(image, factor) if choose else image
        expected.append(image)
    close(jitter(images, draws), torch.cat(expected))


def test_jitter_factors_span_their_ranges_around_no_change():
    jitter = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.0, hue=0.1, probability=1.0)
    low, middle, high = (jitter.parameters(torch.full((1, 5), value), 8, 8)[1][0] for value in (0.0, 0.5, 1.0))
    close(low, torch.tensor([0.6, 0.0, 1.0, -0.1]))
    close(middle, torch.tensor([1.0, 1.25, 1.0, 0.0]))
    close(high, torch.tensor([1.4, 2.5, 1.0, 0.1]))


def test_each_factor_of_jitter_has_its_own_draw():
    jitter = ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5, probability=0.5)
    chosen, factors = jitter.parameters(torch.tensor([[0.6, 0.1, 0.2, 0.3, 0.4]]), 8, 8)
    assert not chosen.any()
    close(factors, torch.tensor([[0.6, 0.7, 0.8, -0.1]]))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_solarize_equals_torchvisions(threshold):
    images = torch.cat([images_of(2), torch.full((1, 3, 24, 20), threshold)])
    got = Solarize(threshold, 1.0)(images, torch.rand(3, 1))
    assert torch.equal(got, TF.solarize(images, threshold))


@pytest.mark.parametrize("kernel_size", [1, 3, 9, 23])
def test_blur_equals_torchvisions_up_to_the_borders(kernel_size):
    images, sigma = images_of(5), torch.tensor([0.1, 0.5, 1.0, 2.0, 6.0])
    expected = one_by_one(lambda image, width: TF.gaussian_blur(image, [kernel_size] * 2, [width] * 2), images, sigma)
    close(gaussian_blur(images, sigma, kernel_size), expected)


def test_each_image_is_blurred_by_its_own_width():
    blur = GaussianBlur(kernel_size=5, sigma=[0.1, 2.0], probability=0.5)
    images, draws = images_of(10), torch.rand(10, 2, generator=torch.Generator().manual_seed(0))
    chosen, sigma = blur.parameters(draws, 24, 20)
    assert 0 < chosen.sum() < 10
    blurred = one_by_one(lambda image, width: TF.gaussian_blur(image, [5, 5], [width] * 2), images, sigma)
    close(blur(images, draws), torch.where(chosen[:, None, None, None], blurred, images))


def test_images_smaller_than_the_kernels_reach_are_refused():
    with pytest.raises(ValueError, match=r"kernel_size=23 needs images of more than 11 pixels, got \(8, 20\)"):
        gaussian_blur(images_of(1, height=8), torch.ones(1), 23)
