import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode, RandomErasing, RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from ssl_runner.data import augmentation
from ssl_runner.data.augmentation.affine import affine
from ssl_runner.data.augmentation.boxes import COLUMNS, random_boxes
from ssl_runner.data.augmentation.erasing import erase
from ssl_runner.data.augmentation.geometry import pad_crop, resampling_weights, resized_crop

BILINEAR = InterpolationMode.BILINEAR


def images_of(count, channels=3, height=24, width=20, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def close(got, expected, atol=1e-5):
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)


# no single column: there torch 2.15 uses the first row for every row
@settings(max_examples=40, deadline=None)
@given(data=st.data(), out=st.tuples(st.integers(1, 40), st.integers(2, 40)), channels=st.sampled_from([1, 3]))
def test_a_resized_crop_equals_torchvisions_when_growing_and_shrinking(data, out, channels):
    images = images_of(4, channels)
    boxes = []
    for _ in images:
        height, width = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 20))
        top, left = data.draw(st.integers(0, 24 - height)), data.draw(st.integers(0, 20 - width))
        boxes.append((top, left, height, width))
    got = resized_crop(images, *torch.tensor(boxes).unbind(1), size=out)
    expected = [
        TF.resized_crop(image[None], *box, size=list(out), interpolation=BILINEAR, antialias=True)
        for image, box in zip(images, boxes, strict=True)
    ]
    close(got, torch.cat(expected))


def test_a_crop_of_the_whole_image_at_its_own_size_is_the_image():
    images = images_of(3)
    zero = torch.zeros(3)
    close(resized_crop(images, zero, zero, zero + 24, zero + 20, size=(24, 20)), images, atol=1e-6)


def test_one_column_and_one_row_are_means_weighted_by_triangles():
    images, zero = images_of(2, height=2, width=4), torch.zeros(2)
    got = resized_crop(images, zero, zero, zero + 2, zero + 4, size=(3, 1))
    # four pixels to one: distances .5 and 1.5 with a reach of 4; two pixels to three: the first, both, the second
    column = images @ torch.tensor([2.5, 3.5, 3.5, 2.5]) / 12
    close(got[..., 0], torch.stack([column[..., 0], column.mean(dim=2), column[..., 1]], dim=2), atol=1e-6)


def test_resampling_weights_sum_to_one_and_are_0_outside_the_interval():
    weights = resampling_weights(torch.tensor([3, 0]), torch.tensor([5, 12]), size=12, out=7)
    close(weights.sum(dim=2), torch.ones(2, 7), atol=1e-6)
    assert (weights[0, :, :3] == 0).all()
    assert (weights[0, :, 8:] == 0).all()


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted),
    extreme=st.sampled_from([None, 0.0, 1 - 2**-24]),
)
def test_boxes_are_inside_the_image_for_any_scale_and_ratio(seed, height, width, scale, ratio, extreme):
    draws = torch.rand(32, COLUMNS, generator=torch.Generator().manual_seed(seed))
    if extreme is not None:
        draws.fill_(extreme)
    crop = augmentation.RandomResizedCrop(None, scale, ratio).parameters(draws, height, width)
    draws = torch.cat([draws[:, :1], draws], dim=1)
    erased = augmentation.RandomErasing(1.0, scale, ratio, 0.0).parameters(draws, height, width)[1]
    for top, left, tall, wide in (crop.unbind(1), erased.unbind(1)):
        assert (tall >= 1).all()
        assert (wide >= 1).all()
        assert (top >= 0).all()
        assert (left >= 0).all()
        assert (top + tall <= height).all()
        assert (left + wide <= width).all()


def quantiles(values):
    return torch.quantile(values.double(), torch.linspace(0.05, 0.95, 19, dtype=torch.float64))


@pytest.mark.parametrize(("scale", "ratio"), [((0.2, 1.0), (0.75, 4 / 3)), ((0.08, 0.5), (0.4, 1.6))])
def test_crop_boxes_are_distributed_like_torchvisions(scale, ratio):
    torch.manual_seed(0)
    image = torch.empty(1, 60, 80)
    theirs = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(6000)]
    theirs = torch.tensor(theirs).unbind(1)
    draws = torch.rand(40000, COLUMNS)
    ours = augmentation.RandomResizedCrop(None, scale, ratio).parameters(draws, 60, 80).unbind(1)
    area, log_ratio = (lambda box: box[2] * box[3] / 4800), (lambda box: (box[3] / box[2]).log())
    # about four standard errors of a quantile of 6000 samples, over the width of each distribution
    for measure, tolerance in (
        (area, 0.03),
        (log_ratio, 0.05),
        (lambda box: box[0] / 60, 0.02),
        (lambda box: box[1] / 80, 0.02),
    ):
        close(quantiles(measure(ours)), quantiles(measure(theirs)), atol=tolerance)


def test_the_logarithm_of_the_ratio_is_uniform():
    box, found = random_boxes(
        torch.rand(20000, COLUMNS, generator=torch.Generator().manual_seed(0)), 900, 900, (0.1, 0.2), (0.5, 2.0)
    )
    assert found.all()
    expected = torch.linspace(0.05, 0.95, 19, dtype=torch.float64) * 2 * math.log(2) - math.log(2)
    close(quantiles((box[:, 3] / box[:, 2]).log()), expected, atol=0.02)


@pytest.mark.parametrize(("height", "width", "ratio"), [(10, 60, (0.75, 4 / 3)), (60, 10, (0.75, 4 / 3))])
def test_if_no_box_fits_the_crop_is_torchvisions_center(height, width, ratio):
    # at this scale every box of a permitted ratio is longer than the short side
    expected = RandomResizedCrop.get_params(torch.empty(1, height, width), [1.0, 1.0], list(ratio))
    got = augmentation.RandomResizedCrop(None, (1.0, 1.0), ratio).parameters(torch.rand(3, COLUMNS), height, width)
    assert got.tolist() == [list(expected)] * 3


def test_if_no_box_fits_nothing_is_erased():
    erasing = augmentation.RandomErasing(1.0, (1.0, 1.0), (1.0, 1.0), 0.0)
    images = images_of(3, height=6, width=30)
    assert torch.equal(erasing(images, torch.rand(3, erasing.columns)), images)


def test_each_image_is_cropped_by_its_own_parameters():
    crop = augmentation.RandomResizedCrop(16, (0.2, 1.0), (0.75, 4 / 3))
    images, draws = images_of(6), torch.rand(6, crop.columns, generator=torch.Generator().manual_seed(1))
    expected = [
        TF.resized_crop(image[None], *box, size=[16, 16], antialias=True)
        for image, box in zip(images, crop.parameters(draws, 24, 20).tolist(), strict=True)
    ]
    close(crop(images, draws), torch.cat(expected))


AFFINE = st.tuples(st.floats(-180, 180), st.floats(-8, 8), st.floats(-8, 8), st.floats(0.5, 2), st.floats(-40, 40))


@settings(max_examples=30, deadline=None)
@given(parameters=st.lists(AFFINE, min_size=1, max_size=4), fill=st.sampled_from([0.0, 0.7, 1.0]))
def test_an_affine_map_equals_torchvisions_of_the_image_in_a_wide_frame(parameters, fill):
    # without torchvision's own fill, which weights pixels at the border twice
    images, frame = images_of(len(parameters)), 80
    got = affine(images, *torch.tensor(parameters).unbind(1), fill=fill)
    expected = [
        TF.affine(TF.pad(image[None], [frame], fill=fill), angle, [across, down], scale, [shear, 0.0], BILINEAR)
        for image, (angle, across, down, scale, shear) in zip(images, parameters, strict=True)
    ]
    # positions along 180 pixels are known to 180 * 2**-24, and neighbours differ by up to 1
    close(got, torch.cat(expected)[:, :, frame:-frame, frame:-frame], atol=1e-4)


def test_an_affine_map_equals_torchvisions_with_a_black_background():
    parameters = [(30.0, 3.0, -2.0, 1.2, 10.0), (-90.0, 0.0, 0.0, 1.0, 0.0), (0.0, 0.5, 0.0, 0.8, -20.0)]
    images = images_of(3)
    expected = [
        TF.affine(image[None], angle, [across, down], scale, [shear, 0.0], BILINEAR)
        for image, (angle, across, down, scale, shear) in zip(images, parameters, strict=True)
    ]
    close(affine(images, *torch.tensor(parameters).unbind(1), fill=0.0), torch.cat(expected))


def test_an_affine_map_repeats_the_border_if_asked():
    images, zero = images_of(2), torch.zeros(2)
    shifted = affine(images, zero, zero + 5, zero, zero + 1, zero, fill="border")
    close(shifted[..., 5:], images[..., :-5])
    close(shifted[..., :5], images[..., :1].expand(-1, -1, -1, 5))


def test_affine_parameters_span_their_ranges_around_no_change():
    transform = augmentation.Affine(degrees=15, translate=0.1, scale=[0.8, 1.2], shear=10, fill=0)
    low, middle, high = (transform.parameters(torch.full((1, 5), value), 20, 40)[0] for value in (0.0, 0.5, 1.0))
    close(low, torch.tensor([-15, -4, -2, 0.8, -10]))
    close(middle, torch.tensor([0, 0, 0, 1.0, 0]))
    close(high, torch.tensor([15, 4, 2, 1.2, 10]))


def test_each_affine_parameter_has_its_own_draw():
    transform = augmentation.Affine(degrees=10, translate=0.5, scale=[1.0, 2.0], shear=10, fill=0)
    got = transform.parameters(torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.6]]), 10, 10)
    close(got, torch.tensor([[-8, -3, -2, 1.4, 2]]))


def test_a_pad_crop_equals_torchvisions():
    images = images_of(5)
    corners = torch.tensor([(0, 0), (8, 8), (4, 4), (1, 7), (5, 2)])
    expected = [
        TF.crop(TF.pad(image[None], [4]), top, left, 24, 20)
        for image, (top, left) in zip(images, corners.tolist(), strict=True)
    ]
    assert torch.equal(pad_crop(images, *corners.unbind(1), padding=4), torch.cat(expected))


def test_every_shift_of_a_pad_crop_is_equally_likely():
    draws = torch.rand(9000, 2, generator=torch.Generator().manual_seed(0))
    counts = augmentation.PadCrop(padding=1).parameters(draws, 8, 8).mul(torch.tensor([3, 1])).sum(1).bincount()
    assert len(counts) == 9
    assert (counts - 1000).abs().max() < 4 * math.sqrt(1000)


def test_a_flip_equals_torchvisions():
    images = images_of(3)
    assert torch.equal(augmentation.HorizontalFlip(1.0)(images, torch.rand(3, 1)), TF.horizontal_flip(images))


def test_an_erased_box_equals_torchvisions():
    images = images_of(4)
    boxes = torch.tensor([(0, 0, 1, 1), (3, 5, 7, 9), (23, 19, 1, 1), (0, 2, 24, 3)])
    expected = [
        TF.erase(image[None], *box, torch.tensor(0.4)) for image, box in zip(images, boxes.tolist(), strict=True)
    ]
    assert torch.equal(erase(images, *boxes.unbind(1), value=0.4), torch.cat(expected))


def test_erased_areas_are_distributed_like_torchvisions():
    torch.manual_seed(0)
    image, scale, ratio = torch.empty(1, 64, 64), (0.02, 0.33), (0.3, 3.3)
    theirs = torch.tensor([RandomErasing.get_params(image, scale, ratio, [0.0])[2:4] for _ in range(4000)])
    erasing = augmentation.RandomErasing(1.0, scale, ratio, 0.0)
    ours = erasing.parameters(torch.rand(20000, erasing.columns), 64, 64)[1][:, 2:]
    close(quantiles(ours.prod(dim=1) / 4096), quantiles(theirs.prod(dim=1) / 4096), atol=0.015)
