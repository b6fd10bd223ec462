"""P > M > F: pre-training, meta-training, fine-tuning."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.algorithms.forward_learner import ForwardLearner
from ssl_runner.algorithms.inner_classifier import Parameters
from ssl_runner.algorithms.precision import at_least_float32, widened
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.augmentation.transform import to_device
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.losses.similarity import refuse_temperature
from ssl_runner.models.batch_norm import normalised_by
from ssl_runner.models.network import Network
from ssl_runner.runtime import randomness

SEED = 0
FROZEN = "without_fine_tuning"
ENCODER = "encoder."
# where tasks go through the encoder one after the other: together their convolutions are grouped ones, which take
# 1.03 to 2.04 times as long on a CPU (conv4 on 28 and 64 pixels, 5 and 25 support images, 8 tasks)
LOOPED = ("cpu",)
BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam, as in the authors' code


class PMF(ForwardLearner):
    """P > M > F (Hu et al. 2022, arXiv:2204.07305): a pre-trained encoder (``init=RUN``) is meta-trained as a ProtoNet
    (sec. 3.2) and fine-tuned in each task (sec. 3.3).

    The score of a class is the cosine with its mean, divided by a learned temperature. Fine-tuning takes steps of Adam
    on the encoder of the task: augmented support images are the queries, and the means are of the support itself, as
    the encoder is at that step, so gradients go through both. Temperature and head stay. The draws of the augmentation
    are the same for every task, so a task's scores depend only on the task. Batch normalisation uses running
    statistics, so a prediction does not depend on the other queries (inductive).

    The rate of the fine-tuning is chosen from ``candidate_lrs`` on tasks of the validation split, separately for each
    setting of ways and shots; 0 stands for none. Without a validation split, and wherever else a task is classified, it
    is ``fine_tune_lr``. Deviation: the authors choose it on a few labelled tasks of the target's own domain.

    Further deviations: the temperature is learned in log space; the scores have no bias, which would be the same for
    all classes; the augmentation changes each image with its own draws, where the authors' code flips, or leaves alone,
    a whole batch.

    Args:
        network: Encoder and head; the cosines are those of the head's outputs. ``model/head=identity`` in the paper.
        loss: Loss of the scores in meta-training. Tasks are fine-tuned with cross-entropy.
        temperature: Initial temperature of the cosines, above 0.
        fine_tune_steps: Steps of Adam in a task; 0 for a ProtoNet with cosines.
        fine_tune_lr: Learning rate where none can be chosen, at least 0.
        candidate_lrs: Learning rates to choose from, each at least 0; an empty list for ``fine_tune_lr`` alone.
        choice_tasks: Number of validation tasks on which a rate is chosen, at least 1.
        augmentation: Makes the pseudo-queries from the support; it must keep the images' size.

    Raises:
        ValueError: A number is out of its range, or the augmentation changes the size of images.
    """

    begins_from_weights = True

    def __init__(
        self,
        network: Network,
        loss: Loss,
        temperature: float,
        fine_tune_steps: int,
        fine_tune_lr: float,
        candidate_lrs: Sequence[float],
        choice_tasks: int,
        augmentation: Augmentation,
    ) -> None:
        super().__init__(network, loss)
        refuse_temperature(temperature)
        if fine_tune_steps < 0 or min([fine_tune_lr, *candidate_lrs]) < 0 or choice_tasks < 1:
            raise InvalidValue(
                f"fine_tune_steps={fine_tune_steps}, fine_tune_lr={fine_tune_lr}, candidate_lrs={list(candidate_lrs)}, "
                f"choice_tasks={choice_tasks}; steps and rates must be at least 0, and tasks at least 1"
            )
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.fine_tune_steps, self.fine_tune_lr = fine_tune_steps, float(fine_tune_lr)
        self.candidate_lrs = tuple(sorted(map(float, candidate_lrs)))
        self.choice_tasks = choice_tasks
        self.augmentation = augmentation
        self._refuse_another_size()

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {
            "fine_tune_steps": self.fine_tune_steps,
            "fine_tune_lr": self.fine_tune_lr,
            "candidate_lrs": list(self.candidate_lrs),
            "chosen_on": f"{self.choice_tasks} validation tasks of each setting",
            "classifiers": {FROZEN: "the same encoder as it was meta-trained"},
        }

    def figures(self) -> dict[str, Tensor]:
        return {"temperature": self.log_temperature.detach().exp()}

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        with at_least_float32(query.device):
            means = F.normalize(class_means(widened(support), support_labels, n_way), dim=-1)
            return F.normalize(widened(query), dim=-1) @ means.transpose(1, 2) / self.log_temperature.exp()

    @property
    def classifiers(self) -> tuple[str, ...]:
        return (FROZEN,)

    def classify(self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int) -> Tensor:
        weights = self.fine_tuned(support_images, support_labels, n_way)
        if weights is None:
            return super().classify(support_images, support_labels, query_images, n_way)
        with torch.no_grad():
            support, query = (self._features(weights, images) for images in (support_images, query_images))
            return self.compare(support, support_labels, query, n_way)

    def classify_by_all(
        self, support_images: Tensor, support_labels: Tensor, query_images: Tensor, n_way: int
    ) -> dict[str, Tensor]:
        task = support_images, support_labels, query_images, n_way
        return {"": self.classify(*task), FROZEN: super().classify(*task)}

    @property
    def candidate_rates(self) -> tuple[float, ...]:
        return self.candidate_lrs if self.fine_tune_steps else ()

    @contextmanager
    def at_rate(self, rate: float) -> Iterator[None]:
        before, self.fine_tune_lr = self.fine_tune_lr, rate
        try:
            yield
        finally:
            self.fine_tune_lr = before

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        before, self.fine_tune_steps = self.fine_tune_steps, min(1, self.fine_tune_steps)
        try:
            yield
        finally:
            self.fine_tune_steps = before

    def fine_tuned(self, support: Tensor, labels: Tensor, n_way: int) -> Parameters | None:
        """The encoder's parameters after fine-tuning, one for each of T tasks: (T, ...) by their names in the network.

        Args:
            support: (T, S, C, H, W), uint8 or float in [0, 1].
            labels: int64 (T, S).
            n_way: Classes in each task.

        Returns:
            None if the rate or the number of steps is 0.
        """
        if not self.fine_tune_steps or not self.fine_tune_lr:
            return None
        wanted = (name for name, value in self.network.named_parameters() if value.requires_grad or self.frozen)
        names = [name for name in wanted if name.startswith(ENCODER)]
        start = {name: self.network.get_parameter(name).detach() for name in names}
        weights = {name: value.expand(len(support), *value.shape).clone() for name, value in start.items()}
        first, second = ({name: torch.zeros_like(value) for name, value in weights.items()} for _ in BETAS)
        for step in range(self.fine_tune_steps):
            gradients = self._gradients(weights, support, labels, self.pseudo_queries(support, step), n_way)
            _adam(weights, gradients, first, second, step + 1, self.fine_tune_lr)
        return weights

    def pseudo_queries(self, support: Tensor, step: int) -> Tensor:
        """Augmented images (T, S, C, H, W) of the support at a step; a shot has the same draws in all tasks."""
        n_tasks, shots = support.shape[:2]
        draws = randomness.uniforms(SEED, "pmf", step, shots, self.augmentation.columns)
        draws = to_device(torch.from_numpy(draws).repeat(n_tasks, 1), support.device)
        return self.augmentation(support.flatten(0, 1), draws).unflatten(0, (n_tasks, shots))

    def _gradients(
        self, weights: Parameters, support: Tensor, labels: Tensor, pseudo_queries: Tensor, n_way: int
    ) -> Parameters:
        shots = support.shape[1]
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        with torch.enable_grad():  # evaluation runs without gradients
            both = torch.cat([_floats(support).to(pseudo_queries), pseudo_queries], dim=1)
            features = self._features(leaves, both)
            scores = self.compare(features[:, :shots], labels, features[:, shots:], n_way)
            # mean over images, sum over tasks: no task's gradient depends on the others
            loss = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum") / shots
            found = torch.autograd.grad(loss, list(leaves.values()))
        return dict(zip(weights, found, strict=True))

    def _features(self, weights: Parameters, images: Tensor) -> Tensor:
        """Outputs (T, M, E) of images (T, M, C, H, W), by an encoder with its own parameters for each task."""

        def of_task(weights: Parameters, images: Tensor) -> Tensor:
            return functional_call(self.network, weights, (images,))

        with normalised_by(self.network, "running"):
            if images.device.type not in LOOPED:
                return vmap(of_task, randomness="different")(weights, images)
            own = zip(*(value.unbind() for value in weights.values()), strict=True)  # whose gradients are stacked once
            tasks = zip(own, images, strict=True)
            return torch.stack([of_task(dict(zip(weights, values, strict=True)), image) for values, image in tasks])

    def _refuse_another_size(self) -> None:
        blank = torch.zeros(1, *self.network.encoder.input_shape)
        size = self.augmentation(blank, torch.zeros(1, self.augmentation.columns)).shape[-2:]
        if size != blank.shape[-2:]:
            before, after = (" x ".join(map(str, one)) for one in (blank.shape[-2:], size))
            raise InvalidValue(
                f"algorithm.augmentation turns images of {before} into {after}, but pseudo-queries keep their size; "
                "set its crop's size to null"
            )


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _adam(
    weights: Parameters, gradients: Parameters, first: Parameters, second: Parameters, step: int, rate: float
) -> None:
    """A step of Adam (Kingma and Ba 2014, arXiv:1412.6980, alg. 1), counted from 1; it writes to all but gradients."""
    corrections = [1 - beta**step for beta in BETAS]
    for name, gradient in gradients.items():
        first[name].lerp_(gradient, 1 - BETAS[0])
        second[name].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = (second[name] / corrections[1]).sqrt_().add_(EPS)
        weights[name].addcdiv_(first[name], root, value=-rate / corrections[0])
