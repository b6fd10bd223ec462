"""Gradient descent within a task, for all tasks at once: the shared part of gradient-based meta-learners."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, vmap

from ssl_runner.algorithms.algorithm import Step
from ssl_runner.algorithms.inner_classifier import InnerClassifier, Parameters, Records, Statistics
from ssl_runner.data.batches import Episodes
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.models.batch_norm import batch_norms, forget_records, normalised_by
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext


class InnerLoop(InnerClassifier):
    """Base class of meta-learners that adapt to a task by a few steps of gradient descent on its support set.

    The inner loops of all tasks run at once under `torch.func.vmap`, with the same gradients as a loop over tasks
    (`ssl_runner.algorithms.reference_loop`). Memory grows with the number of tasks processed at once;
    ``trainer.accumulate_grad_batches`` reduces it without changing the gradient. In training, batch normalisation
    always uses the current batch.

    A subclass defines which parameters adapt (`adapts`) and at what rate (`rate`). Where it differs from MAML, it also
    defines where a task starts (`start`), the inner step (`descend`), the weights of the query losses (`emphasis`) and
    the outer update (`training_step`).

    Args:
        network: See `InnerClassifier`, also for eval_inner_steps and statistics.
        loss: Loss of the logits, in the inner and the outer loop.
        inner_steps: Inner steps in training, at least 1.
    """

    def __init__(
        self, network: Network, loss: Loss, inner_steps: int, eval_inner_steps: int, statistics: Statistics
    ) -> None:
        if min(inner_steps, eval_inner_steps) < 1:
            raise InvalidValue(
                f"inner_steps={inner_steps}, eval_inner_steps={eval_inner_steps}; both must be at least 1"
            )
        super().__init__(network, eval_inner_steps, statistics)
        self.loss = loss
        self.inner_steps = inner_steps

    @abstractmethod
    def rate(self, name: str, step: int) -> Tensor | float:
        """The inner learning rate of a parameter at inner step 0, 1, ..."""

    def is_second_order(self, context: StepContext) -> bool:
        """Whether the meta-gradient goes through the inner gradients at this step of the run."""
        return True

    def emphasis(self, context: StepContext) -> list[float]:
        """Weights of the query losses after 0, 1, ..., `inner_steps` inner steps. They sum to 1.

        A loss with weight 0 is not computed.
        """
        return [0.0] * self.inner_steps + [1.0]

    def figures(self) -> dict[str, Tensor]:
        """Scalars to log about what the inner loop has learned, such as its rates."""
        return {}

    def training_step(self, batch: Episodes, context: StepContext) -> Step:
        emphasis = self.emphasis(context)

        def task(support_images: Tensor, support_labels: Tensor, query_images: Tensor, query_labels: Tensor):
            support, total, metrics, trail = self.begin(support_images), torch.zeros(()), {}, []
            start = self.start(support, support_labels, batch.n_way)
            descent = self.descend(start, support, support_labels, self.inner_steps, context)
            for step, (weights, seen) in enumerate(descent):
                trail += [seen] if step else []
                if emphasis[step]:
                    loss, metrics = self.loss_of(weights, self.begin(query_images), query_labels, step, context)
                    total = total + emphasis[step] * loss
            return total, metrics, [*trail, self.recorded()]

        with normalised_by(self.network, "batch"):
            losses, metrics, records = vmap(task, randomness="different")(
                batch.support_images, batch.support_labels, batch.query_images, batch.query_labels
            )
        forget_records(self.network)
        logged = means(metrics, batch) | self.figures()
        return Step(losses.mean(), logged, carried(records))

    @torch.no_grad()
    def after_step(self, context: StepContext, carry: dict[str, Tensor]) -> None:
        """Moves the running statistics one momentum step towards the mean over tasks of the adapted networks'."""
        for index, layer in enumerate(batch_norms(self.network)):
            mean, variance = (carry[f"{self.inner_steps}/{index}/{name}"].mean(0) for name in ("mean", "variance"))
            assert layer.running_mean is not None and layer.running_var is not None and layer.momentum is not None
            layer.running_mean.lerp_(mean, layer.momentum)
            layer.running_var.lerp_(variance, layer.momentum)

    def loss_of(self, weights: Parameters, begun: Tensor, labels: Tensor, step: int, context: StepContext):
        """The loss and metrics of one task's images and labels (M,)."""
        logits = self.scores(weights, begun, step)
        return self.loss(Embeddings(online=logits[None], labels=labels), context)

    def descend(
        self, start: Parameters, support: Tensor, labels: Tensor, steps: int, context: StepContext
    ) -> Iterator[tuple[Parameters, Records]]:
        """See `InnerClassifier.descend`: gradient descent on the loss of the support set."""

        def loss(weights: Parameters, step: int) -> tuple[Tensor, Records]:
            return self.loss_of(weights, support, labels, step, context)[0], self.recorded()

        weights, seen = start, Records()
        yield weights, seen
        for step in range(steps):
            # grad computes under no_grad all the same, but leaves no graph for the outer gradient
            with nullcontext() if self.is_second_order(context) else torch.no_grad():
                gradients, seen = grad(partial(loss, step=step), has_aux=True)(weights)
            weights = {name: value - self.rate(name, step) * gradients[name] for name, value in weights.items()}
            yield weights, seen

    def recorded(self) -> Records:
        """Statistics of the last batch of each batch normalisation, except layers that use other statistics."""
        return [layer.recorded for layer in batch_norms(self.network) if layer.recorded is not None]


def refuse_rate(inner_lr: float) -> None:
    """Raises ValueError for an inner learning rate that is not above 0."""
    if not inner_lr > 0:
        raise InvalidValue(f"inner_lr={inner_lr}; it must be above 0, for example 0.4")


def means(metrics: dict[str, Tensor], batch: Episodes) -> dict[str, Tensor]:
    """Means of metrics (T,) over all tasks; for the accuracy, also over the tasks of each domain."""
    averages = {name: value.mean() for name, value in metrics.items()}
    return averages | batch.by_domain(metrics["accuracy"]) if "accuracy" in metrics else averages


def carried(records: list[Records]) -> dict[str, Tensor]:
    """The records of each step as ``STEP/LAYER/mean`` and ``STEP/LAYER/variance``, each (T, channels)."""
    return {
        f"{step}/{layer}/{name}": value.detach()
        for step, seen in enumerate(records)
        for layer, record in enumerate(seen)
        for name, value in zip(("mean", "variance"), record, strict=True)
    }


def key_of(name: str) -> str:
    """A parameter's name without dots, which `torch.nn.ParameterDict` keys and buffer names may not contain."""
    return name.replace(".", "/")
