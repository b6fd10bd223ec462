"""Reptile: move the weights towards those that training on each task reaches."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from ssl_runner.algorithms.algorithm import Step
from ssl_runner.algorithms.inner_classifier import Parameters, Records, Statistics
from ssl_runner.algorithms.inner_loop import InnerLoop, carried, means, refuse_rate
from ssl_runner.data.batches import Episodes
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.batch_norm import forget_records, normalised_by
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext

BETA, EPSILON = 0.999, 1e-8  # of Adam, whose first moment is off, as in the authors' code


class Reptile(InnerLoop):
    """Reptile (Nichol et al. 2018, arXiv:1803.02999, alg. 2): theta += eps * mean(phi - theta).

    phi are the weights at the end of a task's inner loop, which is Adam without its first moment on small batches of
    the task's images. The returned loss is a surrogate whose gradient is theta - mean(phi), so plain SGD with rate eps
    makes the update. The logged loss and accuracy are those of the query images after adaptation. In training, the
    inner loop learns only from the support set: give it more shots than in evaluation (10 in the paper's Omniglot
    runs).

    Deviation: the paper draws inner batches at random. Here they cycle through the support set, one image of each class
    at a time, so that they are balanced over classes.

    Args:
        network: See `InnerLoop`, also for loss, inner_steps, eval_inner_steps and statistics.
        inner_lr: Learning rate of Adam, above 0.
        inner_batch: Images in an inner batch in training, at least 1. A smaller support set is used whole.
        eval_inner_batch: Images in an inner batch in `classify`, at least 1.
    """

    surrogate = True

    def __init__(
        self,
        network: Network,
        loss: Loss,
        inner_lr: float,
        inner_steps: int,
        inner_batch: int,
        eval_inner_steps: int,
        eval_inner_batch: int,
        statistics: Statistics,
    ) -> None:
        super().__init__(network, loss, inner_steps, eval_inner_steps, statistics)
        refuse_rate(inner_lr)
        if min(inner_batch, eval_inner_batch) < 1:
            raise InvalidValue(
                f"inner_batch={inner_batch}, eval_inner_batch={eval_inner_batch}; both must be at least 1"
            )
        self.inner_lr = inner_lr
        self.inner_batch, self.eval_inner_batch = inner_batch, eval_inner_batch

    def rate(self, name: str, step: int) -> float:
        return self.inner_lr

    def training_step(self, batch: Episodes, context: StepContext) -> Step:
        def task(support_images: Tensor, support_labels: Tensor, query_images: Tensor, query_labels: Tensor):
            weights, trail = self.initial(), []
            for reached, seen in self.descend(weights, support_images, support_labels, self.inner_steps, context):
                weights = reached
                trail.append(seen)
            loss, metrics = self.loss_of(weights, query_images, query_labels, self.inner_steps, context)
            return weights, loss, metrics, [*trail[1:], self.recorded()]

        with torch.no_grad(), normalised_by(self.network, "batch"):
            reached, losses, metrics, records = vmap(task, randomness="different")(
                batch.support_images, batch.support_labels, batch.query_images, batch.query_labels
            )
        forget_records(self.network)
        steps = {name: value.detach() - reached[name].mean(0) for name, value in self.initial().items()}
        surrogate = torch.stack([(value * steps[name]).sum() for name, value in self.initial().items()]).sum()
        logged = means(metrics, batch) | {"loss": losses.mean()}
        return Step(surrogate, logged, carried(records))

    def descend(
        self, start: Parameters, support: Tensor, labels: Tensor, steps: int, context: StepContext
    ) -> Iterator[tuple[Parameters, Records]]:
        size = self.inner_batch if self.training else self.eval_inner_batch
        order, size = around_classes(labels), min(size, len(labels))

        def loss(weights: Parameters, chosen: Tensor) -> tuple[Tensor, Records]:
            return self.loss_of(weights, support[chosen], labels[chosen], 0, context)[0], self.recorded()

        weights, seen = start, Records()
        squares = {name: torch.zeros_like(value) for name, value in weights.items()}
        yield weights, seen
        for step in range(steps):
            indices = torch.arange(step * size, (step + 1) * size, device=labels.device) % len(labels)
            with torch.no_grad():
                gradients, seen = grad(loss, has_aux=True)(weights, order[indices])
                correction = 1 - BETA ** (step + 1)
                for name, gradient in gradients.items():
                    squares[name] = BETA * squares[name] + (1 - BETA) * gradient.square()
                    size_of = (squares[name] / correction).sqrt() + EPSILON
                    weights = weights | {name: weights[name] - self.inner_lr * gradient / size_of}
            yield weights, seen


def around_classes(labels: Tensor) -> Tensor:
    """An order (S,) of images with these labels: the first image of each class, then the second of each, and so on."""
    members = F.one_hot(labels, len(labels))  # more columns than classes, whose number is unknown here
    earlier = (members.cumsum(0) * members).sum(1)  # the image's number within its class
    return (earlier * len(labels) + labels).argsort()
