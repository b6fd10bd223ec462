"""Fine-tuning of the encoder on the support."""

import copy
import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier
from ssl_runner.evaluation.classifiers.encoded import Encoded
from ssl_runner.evaluation.contender import Contender
from ssl_runner.evaluation.gallery import SEED
from ssl_runner.models.depths import depths
from ssl_runner.models.network import Encoder
from ssl_runner.runtime import randomness


class SupportFineTuning(TaskClassifier):
    """Fine-tuning on augmented support images (Chen et al. 2019, arXiv:1904.04232; Dhillon et al. 2020,
    arXiv:1909.02729, without its transductive term).

    A linear classifier on L2-normalised features starts from the normalised class means, without bias. Then Adam
    minimises the cross-entropy of the whole support in each step; queries are not augmented. Tasks are trained one
    after the other, since separate weights for each of several tasks take longer on a CPU (`FromScratch`).

    Deviations: batch normalisation uses running averages, which do not change, and dropout is off, so five images do
    not decide how a query is normalised. Features have no ReLU put behind them. All tasks see the same draws of the
    augmentation in the same step, so a task's result does not depend on the others.

    Args:
        steps: Steps of Adam, at least 1.
        lr: Its learning rate, above 0.
        layers: Number of the encoder's last layers that are trained, at least 0 (`ssl_runner.models.depths`: blocks of
            a transformer or of Conv4, stages of a ResNet); null for the whole encoder. The classifier always is.
        augmentation: Of the support images; it must keep their size.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, steps: int, lr: float, layers: int | None, augmentation: Augmentation) -> None:
        if steps < 1:
            raise InvalidValue(f"steps={steps}; give at least 1, say 25")
        if not 0 < lr < math.inf:
            raise InvalidValue(f"lr={lr}; give a number above 0, say 0.00005")
        if layers is not None and layers < 0:
            raise InvalidValue(f"layers={layers}; give at least 0, or null for the whole encoder")
        if not isinstance(augmentation, Augmentation):
            raise InvalidValue(f"augmentation is a {type(augmentation).__name__}, expected an Augmentation")
        self.steps, self.lr, self.layers, self.augmentation = steps, lr, layers, augmentation

    def contender(self, name: str, encoded: Encoded) -> Contender:
        """It with the images themselves.

        Raises:
            ValueError: Only some layers are trained, and the encoder does not say which it has.
        """
        try:
            self._trained(encoded.encoder)
        except InvalidValue as error:
            raise InvalidValue(f"{name}.{error}") from None
        return Contender.of_rule(name, encoded.images, partial(self.classify, encoded.encoder))

    def classify(self, encoder: Encoder, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Scores (T, Q, n_way) of images (T, Q, C, H, W) after training a copy of the encoder on each support.

        Raises:
            ValueError: Training diverged, or the augmentation changes the images' size.
        """
        tasks = zip(support, labels, query, strict=True)
        found = torch.stack([self._one(encoder, *task, n_way) for task in tasks])
        if not found.isfinite().all():
            raise InvalidValue(f"the few-shot classifier fine_tuning diverged; lower its lr={self.lr:g}")
        return found

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Raises TypeError: it needs images and an encoder, see `classify`."""
        raise TypeError("features cannot be fine-tuned; use classify()")

    def _one(self, encoder: Encoder, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        tuned, trained = self._copy(encoder)
        with torch.no_grad():
            means = class_means(_embed(tuned, support)[None], labels[None], n_way)[0]
        weight = nn.Parameter(F.normalize(means, dim=1))
        bias = nn.Parameter(torch.zeros_like(weight[:, 0]))
        optimizer = torch.optim.Adam([*trained, weight, bias], self.lr)
        with torch.enable_grad():
            for step in range(self.steps):
                logits = F.linear(F.normalize(_embed(tuned, self._views(support, step)), dim=1), weight, bias)
                loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            return F.linear(F.normalize(_embed(tuned, query), dim=1), weight, bias)

    def _copy(self, encoder: Encoder) -> tuple[Encoder, list[nn.Parameter]]:
        """A copy in evaluation mode, and those of its weights that are trained."""
        copied = copy.deepcopy(encoder).eval().requires_grad_(False)
        copied.zero_grad(set_to_none=True)
        names = self._trained(encoder)
        trained = [weight for name, weight in copied.named_parameters() if name in names]
        for weight in trained:
            weight.requires_grad_()
        return copied, trained

    def _trained(self, encoder: Encoder) -> set[str]:
        """Names of the weights that are trained."""
        names = {name for name, _ in encoder.named_parameters()}
        if self.layers is None or not names:  # raw pixels have none
            return names
        try:
            by_name, last = depths(encoder)
        except InvalidValue:
            name = type(encoder.backbone).__name__
            raise InvalidValue(
                f"layers={self.layers}, but {name} does not say which layers it has; give null for the whole encoder"
            ) from None
        return {name for name in names if by_name[name] >= last - self.layers}

    def _views(self, images: Tensor, step: int) -> Tensor:
        draws = randomness.uniforms(SEED, "few_shot/fine_tuning", step, len(images), self.augmentation.columns)
        views = self.augmentation(images, torch.from_numpy(draws))
        if views.shape != images.shape:
            got, expected = ("x".join(map(str, one.shape[1:])) for one in (views, images))
            raise InvalidValue(
                f"the augmentation of the few-shot classifier fine_tuning turns images of {expected} into {got}, but "
                "queries keep their size; set the crop's size to null"
            )
        return views

    def recipe(self) -> str:
        """In a sentence."""
        part = "the whole encoder" if self.layers is None else f"the encoder's last {self.layers} layers"
        transforms = ", ".join(
            f"{type(one).__name__}({_settings(one)})" for one in self.augmentation.transforms.values()
        )
        return (
            f"{part} and a linear classifier on L2-normalised features, from class means on: {self.steps} steps of "
            f"Adam on the whole support, learning rate {self.lr:g}, augmentation {transforms or 'none'}"
        )

    def shortened(self) -> "SupportFineTuning":
        """With one step."""
        return SupportFineTuning(1, self.lr, self.layers, self.augmentation)


def _embed(encoder: Encoder, images: Tensor) -> Tensor:
    return encoder(images).flatten(1).float()


def _settings(transform: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in vars(transform).items())
