"""Implicit MAML: the meta-gradient at the solution of a regularised inner problem, however it was reached."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from ssl_runner.algorithms.algorithm import Step
from ssl_runner.algorithms.inner_classifier import Parameters, Records, Statistics
from ssl_runner.algorithms.inner_loop import InnerLoop, carried, means, refuse_rate
from ssl_runner.data.batches import Episodes
from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.models.batch_norm import forget_records, normalised_by
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext


class IMAML(InnerLoop):
    """iMAML (Rajeswaran et al. 2019, arXiv:1909.04630): MAML with an implicit meta-gradient.

    The inner problem is phi = argmin L_s(phi) + lambda / 2 |phi - theta|^2 (eq. 3). Its meta-gradient is
    (I + H / lambda)^-1 grad L_q(phi), where H is the Hessian of L_s at phi (eq. 6), computed by conjugate gradients
    (alg. 2). The inner problem is solved by gradient descent without differentiating through it, so memory does not
    grow with the number of inner steps.

    The returned loss is a surrogate with that gradient; the logged one is the query loss. The surrogate's gradient is
    an ordinary gradient, so any optimizer works.

    Args:
        network: See `InnerLoop`, also for loss, inner_steps, eval_inner_steps and statistics.
        inner_lr: Learning rate of the inner gradient descent, above 0 and below 1 / proximal, since a larger one would
            overshoot theta.
        proximal: The lambda above, greater than 0: how strongly tasks are held near the common weights.
        conjugate_steps: Steps of conjugate gradients, at least 1.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        inner_lr: float,
        inner_steps: int,
        eval_inner_steps: int,
        proximal: float,
        conjugate_steps: int,
        statistics: Statistics,
    ) -> None:
        super().__init__(network, loss, inner_steps, eval_inner_steps, statistics)
        refuse_rate(inner_lr)
        if not proximal > 0:
            raise InvalidValue(
                f"proximal={proximal}; it must be above 0 to hold tasks near the common weights, for example 2.0"
            )
        if inner_lr * proximal >= 1:
            raise InvalidValue(
                f"inner_lr={inner_lr}, proximal={proximal}; their product must be below 1, so lower inner_lr"
            )
        if conjugate_steps < 1:
            raise InvalidValue(f"conjugate_steps={conjugate_steps}; it must be at least 1")
        self.inner_lr, self.proximal, self.conjugate_steps = inner_lr, proximal, conjugate_steps

    def rate(self, name: str, step: int) -> float:
        return self.inner_lr

    def training_step(self, batch: Episodes, context: StepContext) -> Step:
        def task(support_images: Tensor, support_labels: Tensor, query_images: Tensor, query_labels: Tensor):
            weights, trail = self.initial(), []
            for reached, seen in self.descend(weights, support_images, support_labels, self.inner_steps, context):
                weights = reached
                trail.append(seen)

            def of_queries(weights: Parameters):
                loss, metrics = self.loss_of(weights, query_images, query_labels, self.inner_steps, context)
                return loss, (loss, metrics, self.recorded())

            direct, (loss, metrics, seen) = grad(of_queries, has_aux=True)(weights)
            solution = self._implicit(weights, direct, support_images, support_labels, context)
            return solution, loss, metrics, [*trail[1:], seen]

        with torch.no_grad(), normalised_by(self.network, "batch"):
            gradients, losses, metrics, records = vmap(task, randomness="different")(
                batch.support_images, batch.support_labels, batch.query_images, batch.query_labels
            )
        forget_records(self.network)
        products = [(value * gradients[name].mean(0)).sum() for name, value in self.initial().items()]
        surrogate = torch.stack(products).sum()
        logged = means(metrics, batch) | {"loss": losses.mean()}
        return Step(surrogate, logged, carried(records))

    def descend(
        self, start: Parameters, support: Tensor, labels: Tensor, steps: int, context: StepContext
    ) -> Iterator[tuple[Parameters, Records]]:
        def loss(weights: Parameters) -> tuple[Tensor, Records]:
            return self.loss_of(weights, support, labels, 0, context)[0], self.recorded()

        weights, seen = start, Records()
        yield weights, seen
        for _ in range(steps):
            with torch.no_grad():
                gradients, seen = grad(loss, has_aux=True)(weights)
                weights = {
                    name: value - self.inner_lr * (gradients[name] + self.proximal * (value - start[name]))
                    for name, value in weights.items()
                }
            yield weights, seen

    def _implicit(
        self, weights: Parameters, direct: Parameters, support: Tensor, labels: Tensor, context: StepContext
    ) -> Parameters:
        """(I + H / proximal)^-1 direct."""
        gradient = grad(lambda weights: self.loss_of(weights, support, labels, 0, context)[0])
        pull = vjp(gradient, weights)[1]

        def product(vector: Parameters) -> Parameters:
            curved = pull(vector)[0]  # H is symmetric
            return {name: value + curved[name] / self.proximal for name, value in vector.items()}

        return conjugate_gradients(product, direct, self.conjugate_steps)


def conjugate_gradients(product: Callable[[Parameters], Parameters], target: Parameters, steps: int) -> Parameters:
    """Approximate solution x of ``product(x) = target`` after ``steps`` steps of conjugate gradients from 0.

    ``product`` must be symmetric and positive definite. Once a residual is 0, the solution no longer changes.
    """
    solution = {name: torch.zeros_like(value) for name, value in target.items()}
    residual, direction = target, target
    size = _dot(residual, residual)
    for _ in range(steps):
        image = product(direction)
        step = _share(size, _dot(direction, image))
        solution = {name: value + step * direction[name] for name, value in solution.items()}
        residual = {name: value - step * image[name] for name, value in residual.items()}
        before, size = size, _dot(residual, residual)
        direction = {name: value + _share(size, before) * direction[name] for name, value in residual.items()}
    return solution


def _dot(one: Parameters, other: Parameters) -> Tensor:
    return torch.stack([(value * other[name]).sum() for name, value in one.items()]).sum()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole == 0, torch.zeros_like(part), part / whole)
