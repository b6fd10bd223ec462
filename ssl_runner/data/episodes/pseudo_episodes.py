"""Tasks without labels: every class is one image, and its members are views of that image."""

import numpy as np
import torch
from torch import Tensor

from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batches import Episodes
from ssl_runner.data.batching.batching import Batching, gather, on_device, own_draws
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.class_index import sample
from ssl_runner.data.episodes.tasks import sorted_labels
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime import process_group, randomness


class PseudoEpisodeBatching(Batching):
    """N-way tasks of N different images, each a class of its own, drawn at every step. Labels are never used.

    With one query they are UMTRA's tasks (Khodadadeh et al. 2019, arXiv:1811.11819, alg. 1), with several ProtoCLR's
    (Medina et al. 2020, arXiv:2006.11325, alg. 1): the support is the image itself, and queries are augmented views of
    it. No image has two labels in a task, and its label changes between tasks. Two images may belong to the same true
    class, which is more likely with more ways and cannot be detected; both papers accept this. As in both, rotated
    copies in a dataset are ordinary images: two rotations of a drawing may have two labels, as they would with true
    labels (Omniglot's rotations are classes).

    Deviation: each task draws from the whole dataset, whereas ProtoCLR passes over it in epochs.

    Args:
        augmentation: Augmentation of queries, each with its own draws.
        n_way: Classes in a task, which are images.
        k_shot: Support views of each image.
        n_query: Query views of each image.
        tasks_per_batch: Tasks in a step.
        support_augmentation: Augmentation of the support, each view with its own draws; None for the images themselves.

    Attributes:
        ways: The possible numbers of classes in a task: a single one.
        shots: The possible numbers of support views: a single one.
    """

    batch_type = Episodes
    makes_labels = True

    def __init__(
        self,
        augmentation: Augmentation,
        n_way: int,
        k_shot: int,
        n_query: int,
        tasks_per_batch: int,
        support_augmentation: Augmentation | None,
    ) -> None:
        numbers = {"n_way": n_way, "k_shot": k_shot, "n_query": n_query, "tasks_per_batch": tasks_per_batch}
        for name, value in numbers.items():
            if value < 1:
                raise InvalidValue(f"{name}={value}; it must be at least 1")
        if not augmentation.columns:
            raise InvalidValue(
                "the augmentation has no random changes, so queries would equal the support and tasks would be "
                "trivial; choose augmentation=glyph or simclr"
            )
        if support_augmentation is None and k_shot > 1:
            raise InvalidValue(
                f"k_shot={k_shot}, but without a support_augmentation the support images of a class are all the same; "
                "set k_shot=1, or give a support_augmentation"
            )
        self.augmentation = augmentation
        self.support_augmentation = Augmentation({}) if support_augmentation is None else support_augmentation
        self.n_way, self.k_shot, self.n_query, self.tasks_per_batch = n_way, k_shot, n_query, tasks_per_batch
        self.ways, self.shots = range(n_way, n_way + 1), range(k_shot, k_shot + 1)
        self.n_outputs = self.most_ways = n_way
        self.images_per_step = tasks_per_batch * n_way * (k_shot + n_query)

    def bind(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        process_group.rows(
            self.tasks_per_batch, "batching.tasks_per_batch"
        )  # raises an error if the processes cannot share them evenly
        if len(dataset) < self.n_way:
            raise InvalidValue(
                f"n_way={self.n_way}, but every class of a pseudo-task is an image and {dataset.name} has only "
                f"{len(dataset)}; lower batching.n_way"
            )
        self.seed, self.device = seed, device
        self.images = on_device(dataset.images, device)

    def batch(self, step: int) -> Episodes:
        sources = self.sources(step)
        support = self._views(sources, self.k_shot, self.support_augmentation, "support augmentation", step)
        query = self._views(sources, self.n_query, self.augmentation, "augmentation", step)
        support_labels, query_labels = (
            sorted_labels(len(sources), self.n_way, views, self.device) for views in (self.k_shot, self.n_query)
        )
        return Episodes(support, support_labels, query, query_labels, self.n_way)

    def sources(self, step: int) -> Tensor:
        """Dataset indices int64 (T, n_way) of the images of this process's tasks, in the order of their labels."""
        draws = randomness.uniforms(self.seed, "pseudo-tasks", step, self.tasks_per_batch, self.n_way)
        own = draws[process_group.rows(self.tasks_per_batch, "batching.tasks_per_batch")]
        return torch.from_numpy(sample(own, np.array(len(self.images))))

    def _views(self, sources: Tensor, views: int, augmentation: Augmentation, stream: str, step: int) -> Tensor:
        """Views (T, n_way * views, C, H, W), sorted by class."""
        indices = sources.repeat_interleave(views, dim=1)
        draws = own_draws(self.seed, stream, step, 1, indices.numel() * process_group.size(), augmentation.columns)
        images = gather(self.images, indices.flatten(), self.device)
        return self.augment(augmentation, images, draws).unflatten(0, tuple(indices.shape))
