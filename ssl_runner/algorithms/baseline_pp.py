"""A classifier of all training classes whose head is refitted to each task."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.algorithms.precision import at_least_float32, widened
from ssl_runner.data.batches import Views
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.heads import Cosine
from ssl_runner.models.network import Network
from ssl_runner.runtime import randomness
from ssl_runner.runtime.step_context import StepContext

SEED = 0


class BaselinePP(Algorithm):
    """Baseline++ (Chen et al. 2019, arXiv:1904.04232, sec. 3.2): cosine classifiers, in training and in each task.

    Training classifies all base classes with `ssl_runner.models.heads.Cosine`. Each task then fits its own cosine
    classifier to the frozen features of its support by SGD, with the momentum, dampening and weight decay of the
    authors' code; all tasks are fitted at once. The initial weights and the order of the shots are drawn once and are
    the same for every task, so a task's scores depend only on the task. Batches are cut from a sequence of shuffled
    passes over the support, and may span two passes. The weights have no learned norm, so the scale is fixed.
    Evaluation uses running statistics, so a prediction does not depend on the other queries (inductive).

    Args:
        network: Network whose head is ``cosine``, with one output for each base class.
        loss: Loss of the head's logits in training. Tasks are fitted with cross-entropy.
        scale: Factor of the cosines in a task, above 0; the head has its own.
        fit_steps: Steps of SGD in a task, at least 1 (100 in the paper).
        fit_lr: Learning rate of that SGD, above 0.
        fit_momentum: Its momentum, in [0, 1).
        fit_dampening: Share of a gradient that does not enter the momentum, in [0, 1].
        fit_weight_decay: Its weight decay, at least 0.
        fit_batch_size: Support images in a step (4 in the paper), or null for all of them.

    Raises:
        ValueError: A number is out of its range, or the head is not ``cosine``.
    """

    batch_type = Views
    gives_logits = True
    head_classifies = True

    def __init__(
        self,
        network: Network,
        loss: Loss,
        scale: float,
        fit_steps: int,
        fit_lr: float,
        fit_momentum: float,
        fit_dampening: float,
        fit_weight_decay: float,
        fit_batch_size: int | None,
    ) -> None:
        super().__init__(network)
        if not isinstance(network.head, Cosine):
            raise InvalidValue(
                f"Baseline++ needs a cosine head, but the head is a {type(network.head).__name__}; "
                "choose model/head=cosine, or algorithm=supervised"
            )
        for name, value in {"scale": scale, "fit_lr": fit_lr}.items():
            if not value > 0:
                raise InvalidValue(f"{name}={value}; give a number above 0")
        if fit_steps < 1 or (fit_batch_size is not None and fit_batch_size < 1):
            raise InvalidValue(f"fit_steps={fit_steps}, fit_batch_size={fit_batch_size}; both must be at least 1")
        if not (0 <= fit_momentum < 1 and 0 <= fit_dampening <= 1 and fit_weight_decay >= 0):
            raise InvalidValue(
                f"fit_momentum={fit_momentum}, fit_dampening={fit_dampening}, fit_weight_decay={fit_weight_decay}; "
                "they must be in [0, 1), in [0, 1] and at least 0"
            )
        self.loss = loss
        self.scale = scale
        self.fit_steps, self.fit_lr, self.fit_batch_size = fit_steps, fit_lr, fit_batch_size
        self.fit_momentum, self.fit_dampening, self.fit_weight_decay = fit_momentum, fit_dampening, fit_weight_decay

    def protocol(self) -> dict[str, Any]:
        return {"statistics": "running", "transductive": False, "fit_steps": self.fit_steps}

    def training_step(self, batch: Views, context: StepContext) -> Step:
        (crops,) = batch.crops
        logits = self.network(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        return Step(*self.loss(Embeddings(online=logits, labels=batch.labels), context))

    def compare(self, support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Cosines with the weights of each task's own classifier, multiplied by the scale."""
        with at_least_float32(query.device):
            weights = self.fit(widened(support), support_labels, n_way)
            return self._logits(widened(query), weights)

    def fit(self, support: Tensor, labels: Tensor, n_way: int) -> Tensor:
        """Classifier weights (T, n_way, D) of T tasks, fitted to features (T, S, D) and labels (T, S)."""
        generator = randomness.generator(SEED, "baseline_pp", 0)  # on the CPU: the same draws for every device
        bound = support.shape[2] ** -0.5  # as torch initialises a linear layer
        start = torch.rand(n_way, support.shape[2], generator=generator).mul(2 * bound).sub(bound)
        weights = start.to(support).repeat(len(support), 1, 1).requires_grad_()
        support = support.detach()
        optimizer = torch.optim.SGD(
            [weights], self.fit_lr, self.fit_momentum, self.fit_dampening, self.fit_weight_decay
        )
        for rows in self._rows(support.shape[1], generator).to(support.device):
            with torch.enable_grad():  # evaluation runs without gradients
                logits = self._logits(support[:, rows], weights)
                # mean over images, sum over tasks: no task's gradient depends on the others
                loss = F.cross_entropy(logits.flatten(0, 1), labels[:, rows].flatten(), reduction="sum") / len(rows)
                (weights.grad,) = torch.autograd.grad(loss, weights)
            optimizer.step()
        return weights.detach()

    def _logits(self, features: Tensor, weights: Tensor) -> Tensor:
        """Logits (T, M, n_way) from features (T, M, D) and weights (T, n_way, D)."""
        return self.scale * F.normalize(features, dim=-1) @ F.normalize(weights, dim=-1).transpose(1, 2)

    def _rows(self, shots: int, generator: torch.Generator) -> Tensor:
        """Support indices of each step's batch, int64 (fit_steps, batch)."""
        size = min(self.fit_batch_size or shots, shots)
        passes = -(-self.fit_steps * size // shots)
        order = torch.cat([torch.randperm(shots, generator=generator) for _ in range(passes)])
        return order[: self.fit_steps * size].view(self.fit_steps, size)
