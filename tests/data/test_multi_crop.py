"""Views at two resolutions, and views of two kinds."""

import pytest
import torch

from ssl_runner.data.augmentation import Augmentation, HorizontalFlip, RandomResizedCrop, Solarize
from ssl_runner.data.batching.multi_crop import MultiCropBatching
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.data.dataset import Dataset

CPU = torch.device("cpu")


@pytest.fixture
def dataset() -> Dataset:
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Dataset("random/train", images, torch.arange(40) % 4, tuple("0123"), None, "data")


def crop(low: float, high: float) -> Augmentation:
    return Augmentation({"crop": RandomResizedCrop(None, (low, high), (0.75, 1.3333))})


def bound(batching, dataset):
    batching.bind(dataset, seed=3, device=CPU)
    return batching


def test_local_views_are_half_as_large_and_global_ones_are_unchanged(dataset):
    several = bound(MultiCropBatching(crop(0.3, 1), 8, crop(0.05, 0.3), 3, None), dataset)
    plain = bound(ViewBatching(crop(0.3, 1), 8, 2), dataset)
    batch, two = several.batch(4), plain.batch(4)
    assert [tuple(part.shape) for part in batch.crops] == [(2, 8, 3, 16, 16), (3, 8, 3, 8, 8)]
    assert torch.equal(batch.crops[0], two.crops[0])
    assert torch.equal(batch.indices, two.indices)
    assert several.images_per_step == 40
    assert several.steps_per_epoch == plain.steps_per_epoch == 5
    assert torch.equal(batch.crops[1], several.batch(4).crops[1])
    assert not torch.equal(batch.crops[1], several.batch(5).crops[1])
    assert len({view.sum().item() for view in batch.crops[1].flatten(0, 1)}) == 24


@pytest.mark.parametrize("pool", [1, 2])
def test_a_smaller_view_of_an_image_has_the_size_of_the_batchs_local_views(pool, dataset):
    several = bound(MultiCropBatching(crop(0.3, 1), 8, crop(0.05, 0.3), 3, None, pool), dataset)
    (view,) = several.smaller(dataset.images[:1])
    assert view.shape == (1, *several.batch(0).crops[1].shape[2:])
    assert bound(ViewBatching(crop(0.3, 1), 8, 2), dataset).smaller(dataset.images[:1]) == []


def test_a_local_view_shows_its_own_image(dataset):
    several = bound(MultiCropBatching(crop(0.3, 1), 8, Augmentation({}), 2, None), dataset)
    batch = several.batch(0)
    expected = torch.nn.functional.avg_pool2d(dataset.images[batch.indices].float() / 255, 2)
    for view in batch.crops[1]:
        assert torch.allclose(view, expected, atol=1e-6)


def test_the_second_augmentation_applies_to_the_views_after_the_first(dataset):
    inverted = Augmentation({"solarize": Solarize(threshold=0.0, probability=1.0)})
    batch = bound(ViewBatching(Augmentation({}), 8, 3, inverted), dataset).batch(0)
    first, second, third = batch.crops[0]
    assert torch.allclose(second, 1 - first)
    assert torch.allclose(third, 1 - first)
    flip = Augmentation({"flip": HorizontalFlip(0.5)})
    same, alike = (bound(ViewBatching(flip, 8, 2, second), dataset).batch(1) for second in (None, flip))
    assert torch.equal(same.crops[0], alike.crops[0])


def test_zero_local_views_and_an_unused_second_augmentation_are_refused():
    with pytest.raises(ValueError, match="local_views=0"):
        MultiCropBatching(crop(0.3, 1), 8, crop(0.1, 0.3), 0, None)
    with pytest.raises(ValueError, match="views=1"):
        ViewBatching(crop(0.3, 1), 8, 1, crop(0.3, 1))
