"""Real images in two kinds of splits, and a small network with batch normalisation."""

from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batches import Views
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.models.network import Encoder, Network

NAMES = tuple("0123456789")


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """1,797 digits of 8x8, uint8 (N, 1, 8, 8), shuffled."""
    images, target = load_digits(return_X_y=True)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(0))
    pixels = (torch.from_numpy(images).view(-1, 1, 8, 8) * 255 / 16).round().to(torch.uint8)
    return Dataset("digits/all", pixels[order], torch.from_numpy(target).long()[order], NAMES, None, "digits")


@pytest.fixture(scope="session")
def by_images(digits: Dataset) -> Splits:
    """1,000 train, 200 validation, 597 test."""

    def part(name: str, start: int, stop: int) -> Dataset:
        images, labels = digits.images[start:stop], digits.labels[start:stop]
        return Dataset(f"digits/{name}", images, labels, NAMES, None, f"digits {name}")

    return Splits(part("train", 0, 1000), part("validation", 1000, 1200), part("test", 1200, 1797), "images")


@pytest.fixture(scope="session")
def by_classes(digits: Dataset) -> Splits:
    """Train on 0 to 4, test on 5 to 9, whose labels start from 0."""

    def part(name: str, first: int) -> Dataset:
        rows = (digits.labels >= first) & (digits.labels < first + 5)
        labels = digits.labels[rows] - first
        return Dataset(f"digits/{name}", digits.images[rows], labels, NAMES[first : first + 5], None, name)

    return Splits(part("train", 0), None, part("test", 5), "classes")


class Backbone(nn.Sequential):
    """Convolution, batch normalisation and dropout: everything that evaluation mode changes."""

    out_features = 8 * 4 * 4

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()
        )


class Untrained(Algorithm):
    """An algorithm with the default classify and encoder."""

    batch_type = Views


class LongWay(Untrained):
    """The default classify, overridden, so that every episode's images pass through the encoder."""

    def classify(self, *arguments):
        return super().classify(*arguments)


@pytest.fixture
def small() -> Callable[[type[Algorithm]], Algorithm]:
    """Makes an algorithm of the given class, with the same weights each time, in train mode except for dropout."""

    def make(kind: type[Algorithm] = Untrained) -> Algorithm:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = Encoder(Backbone(), (1, 8, 8), mean=[0.3], std=[0.4])
            algorithm = kind(Network(encoder, nn.Linear(128, 10)))
        algorithm.train()
        algorithm.network.encoder.backbone[3].eval()
        return algorithm

    return make


@pytest.fixture
def long_way() -> type[Algorithm]:
    return LongWay
