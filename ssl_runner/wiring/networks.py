"""Builds the network from the model's config nodes and the shape of the images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssl_runner.config.building import build
from ssl_runner.config.schema import Config
from ssl_runner.data.batching.batching import Batching
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.models.network import Encoder, Network
from ssl_runner.runtime import randomness
from ssl_runner.wiring import components


class FirstWeights:
    """Draws the initial weights of the encoder, the head and then the algorithm's own parts in one random stream.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self._state = torch.Generator().manual_seed(randomness.number(seed, "weights", 0)).get_state()

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Inside, torch's generator continues where the previous part stopped; afterwards its state is restored."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            yield
            self._state = torch.get_rng_state()


def begin_network(config: Config, splits: Splits, weights: FirstWeights) -> Encoder:
    """The encoder for the images of a dataset."""
    components.takes(config, "model.encoder", "in_channels", "image_size")
    channels, height, width = splits.train.images.shape[1:]
    with weights.drawn():
        backbone = build(config, "model.encoder")(channels, height)
    encoder = Encoder(backbone, (channels, height, width), *pixel_statistics(splits.train))
    encoder.decoding = dict(splits.decoding)
    return encoder


def finish_network(encoder: Encoder, config: Config, batching: Batching, weights: FirstWeights) -> Network:
    """The network with a head on top of the encoder."""
    components.takes(config, "model.head", "in_features", "n_outputs")
    with weights.drawn():
        return Network(encoder, build(config, "model.head")(encoder.out_features, batching.n_outputs))


def pixel_statistics(dataset: Dataset) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in [0, 1], over at most 10,000 evenly spread training images.

    Of packed images, these were computed from all original pixels when they were packed.
    """
    images = dataset.images
    if isinstance(images, StoredImages):
        return images.mean_and_std()
    images = images[:: -(-len(dataset) // 10_000)]
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for part in images.split(256):  # histograms are exact and need no float copy of the images
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in part.transpose(0, 1)])
    levels, shares = torch.arange(256) / 255, counts / counts.sum(dim=1, keepdim=True)
    mean = shares @ levels.double()
    std = (shares * (levels - mean[:, None]).square()).sum(dim=1).sqrt()
    return mean.tolist(), std.clamp_min(1e-3).tolist()
