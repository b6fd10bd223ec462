"""A baseline that trains an encoder as an ordinary classifier of the source's classes, without meta-learning."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.data.batching.batching import gather, on_device
from ssl_runner.data.dataset import Dataset, every
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.fine_tuning import zero_head
from ssl_runner.evaluation.gallery import labels_of
from ssl_runner.evaluation.logistic_regression import standardise
from ssl_runner.models.features import features
from ssl_runner.models.initialisation import initialised_anew
from ssl_runner.models.network import Encoder
from ssl_runner.optim.schedules import WarmupCosine
from ssl_runner.runtime import progress, randomness

LOOKED_AT = 10_000  # source images from which means and deviations of features are computed
COSINE = WarmupCosine(warmup_steps=0, final=0.0)


class SourceClassifier:
    """Trains encoder and linear classifier by cross-entropy on all classes of the source (the pre-training of
    Chen et al. 2019, arXiv:1904.04232, "Baseline", and Tian et al. 2020, arXiv:2003.11539).

    It uses Adam in float32, with the learning rate falling to 0 along half a cosine. Batches come from shuffled passes,
    whose last, smaller batch is dropped. There is no augmentation and no weight decay, and no setting is chosen by a
    score. The classifier starts from zeros.

    Args:
        steps: Number of optimizer steps, at least 1.
        batch_size: Images in a step, at least 2.
        lr: Learning rate of the first step, above 0.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(self, steps: int, batch_size: int, lr: float) -> None:
        if steps < 1 or batch_size < 2 or not lr > 0:
            raise InvalidValue(
                f"supervised_steps={steps}, supervised_batch_size={batch_size}, supervised_lr={lr}; "
                "give at least 1 step, at least 2 images, and a rate above 0"
            )
        self.steps, self.batch_size, self.lr = steps, batch_size, lr

    def recipe(self, source: Dataset) -> str:
        """A description for the protocol."""
        return (
            f"the architecture with new weights, trained on the {source.n_classes} classes of {source.name} by "
            f"cross-entropy: {self.steps:,} steps of Adam, {self.batch_size} images each, learning rate {self.lr:g}, "
            "cosine to 0"
        )

    def train(self, encoder: Encoder, source: Dataset, seed: int, device: torch.device) -> Encoder:
        """A newly trained encoder of the same architecture, in evaluation mode. This seeds torch's generators.

        Raises:
            ValueError: The source has no labels, or training diverged.
        """
        labels, images = labels_of(source).to(device), on_device(source.images, device)
        fresh = initialised_anew(encoder, randomness.number(seed, "verdict/supervised/weights", 0))
        fresh.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        network = nn.Sequential(fresh, nn.Flatten(), zero_head(fresh.out_features, source.n_classes, device)).train()
        optimizer = torch.optim.Adam(network.parameters(), self.lr)
        loss = torch.zeros(())
        for step, rows in enumerate(self._rows(len(source), seed)):
            for group in optimizer.param_groups:
                group["lr"] = self.lr * COSINE(step, self.steps)
            torch.manual_seed(randomness.number(seed, "verdict/supervised/network", step))  # for dropout
            with torch.enable_grad():
                loss = F.cross_entropy(network(gather(images, rows, device)), labels[to_device(rows, device)])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            optimizer.step()
            progress.at(step + 1, self.steps, "steps")
        if not loss.isfinite():
            raise InvalidValue(
                f"the supervised baseline diverged: its loss is {float(loss)} after {self.steps} steps; "
                f"lower eval.verdict.supervised_lr={self.lr:g}"
            )
        return fresh.eval()

    def _rows(self, n: int, seed: int) -> Iterator[Tensor]:
        """Indices in the source, int64 (batch,), one batch per step."""
        batches, order = max(1, n // self.batch_size), torch.empty(0)
        for step in range(self.steps):
            epoch, place = divmod(step, batches)
            if place == 0:
                order = torch.from_numpy(randomness.permutation(seed, "verdict/supervised/order", epoch, n))
            yield order[place * self.batch_size : (place + 1) * self.batch_size]


def standardised(encoder: Encoder, judged: Dataset, source: Dataset, device: torch.device) -> Tensor:
    """Features (N, D) of the judged images, standardised with the means and deviations of the source's features.

    These come from at most 10,000 evenly spread source images, so neither labels nor other images of the judged dataset
    have any influence.
    """
    gallery = features(encoder, every(source.images, -(-len(source) // LOOKED_AT)), device)
    return standardise(gallery, features(encoder, judged.images, device))[1]
