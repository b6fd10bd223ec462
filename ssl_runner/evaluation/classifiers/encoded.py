"""The images that tasks refer to, and what an encoder makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ssl_runner.data.batching.batching import on_device
from ssl_runner.data.dataset import Dataset, Images
from ssl_runner.data.episodes.tasks import Tasks
from ssl_runner.data.episodes.varied_tasks import VariedTasks
from ssl_runner.evaluation.contender import places
from ssl_runner.evaluation.features import features_at
from ssl_runner.models.features import features
from ssl_runner.models.network import Encoder


@dataclass(frozen=True, eq=False)
class Encoded:
    """What classifiers may use besides a task: its encoder, and images for which no label is given.

    Attributes:
        encoder: In evaluation mode.
        dataset: The judged images.
        tasks: All tasks that will be classified.
        training: Images of the run's training split, from which a mean may be computed.
        device: The device of the encoder.
    """

    encoder: Encoder
    dataset: Dataset
    tasks: Sequence[Tasks | VariedTasks]
    training: Images
    device: torch.device

    @cached_property
    def features(self) -> Tensor:
        """The encoder's features (N, D) of the dataset, encoded once; rows that no task refers to may be 0."""
        return features_at(self.encoder, self.dataset, places(self.tasks), self.device)

    @cached_property
    def training_mean(self) -> Tensor:
        """The mean feature (D,) of the training images."""
        return features(self.encoder, self.training, self.device).mean(dim=0)

    @cached_property
    def images(self) -> Images:
        """The judged images, (N, C, H, W)."""
        return on_device(self.dataset.images, self.device)
