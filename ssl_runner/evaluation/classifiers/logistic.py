"""Logistic regression on the support."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier

# Enough for probabilities within 1e-6 of scikit-learn's in tasks of 3w1s to 10w5s with C from 0.01 to 100, and for a
# gradient of 0 in 20w5s (tests).
NEWTON_STEPS = 15
CONJUGATE_STEPS = 60
HALVINGS = 7  # of a Newton step that are tried


class Logistic(TaskClassifier):
    """Multinomial logistic regression on L2-normalised features (Tian et al. 2020, arXiv:2003.11539).

    It minimises C times the summed cross-entropy plus |W|^2 / 2, with an unpenalised bias: scikit-learn's objective,
    which the authors use. Newton's method, whose linear systems are solved by conjugate gradients, fits all tasks at
    once; the number of steps is fixed, so nothing waits for the device.

    Args:
        inverse_regularisation: C, above 0.

    Raises:
        ValueError: C is out of range.
    """

    def __init__(self, inverse_regularisation: float) -> None:
        if not 0 < inverse_regularisation < math.inf:
            raise InvalidValue(f"inverse_regularisation={inverse_regularisation}; give a number above 0, say 1")
        self.strength = inverse_regularisation

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Logits (T, Q, n_way)."""
        gram = support @ support.mT
        duals = fit(gram, F.one_hot(labels, n_way).to(gram.dtype), self.strength)
        return query @ support.mT @ duals[:, :-1] + duals[:, -1:]

    def recipe(self) -> str:
        """In a sentence."""
        return f"logistic regression on L2-normalised features, C = {self.strength:g}"


def fit(gram: Tensor, targets: Tensor, strength: float) -> Tensor:
    """The solution as (T, S + 1, n_way): A of the weights W = X^T A, and the bias b in the last row.

    All steps of Newton's method are of this form, so the cost of a step does not depend on the number of features.

    Args:
        gram: X X^T, (T, S, S).
        targets: One-hot labels, (T, S, n_way).
        strength: C.
    """
    ones = torch.ones_like(gram[..., :1])
    inputs = torch.cat([gram, ones], dim=2)  # maps duals to logits of the support
    penalised = torch.cat([ones, torch.zeros_like(ones[:, :1])], dim=1)  # (T, S + 1, 1): not the bias
    duals = torch.zeros_like(torch.cat([targets, targets[:, :1]], dim=1))

    def metric(vector: Tensor) -> Tensor:
        """Inner products of weights and biases, from duals."""
        return torch.cat([gram @ vector[:, :-1], vector[:, -1:]], dim=1)

    def of_logits(values: Tensor) -> Tensor:
        """The duals of a gradient that is given for the logits, (T, S, n_way)."""
        return strength * torch.cat([values, values.sum(dim=1, keepdim=True)], dim=1)

    for _ in range(NEWTON_STEPS):
        shares = (inputs @ duals).softmax(dim=2)

        def curved(vector: Tensor, shares: Tensor = shares) -> Tensor:
            moved = shares * (inputs @ vector)
            return penalised * vector + of_logits(moved - shares * moved.sum(dim=2, keepdim=True))

        gradient = penalised * duals + of_logits(shares - targets)
        gradient = gradient - gradient.mean(dim=2, keepdim=True)  # 0 but for rounding, see conjugate_gradients
        step = conjugate_gradients(curved, -gradient, metric)
        duals = duals + _length(inputs, targets, duals, step, penalised, metric, strength) * step
    return duals


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor], right: Tensor, metric: Callable[[Tensor], Tensor]
) -> Tensor:
    """x with operator(x) = right, (T, ...), where the operator is symmetric and positive under the metric.

    A shift of all biases of a task changes nothing, so the operator is singular in that direction; ``right`` has no
    part in it, and neither has x.
    """
    found, residual, direction = torch.zeros_like(right), right, right
    size = _inner(residual, metric(residual))
    smallest = size * torch.finfo(right.dtype).eps ** 1.5  # beyond that, rounding leads into the singular direction
    for _ in range(CONJUGATE_STEPS):
        applied = operator(direction)
        curvature = _inner(direction, metric(applied))
        going = (size > smallest) & (curvature > 0)
        length = torch.where(going, size / torch.where(going, curvature, 1), 0)
        found = found + length * direction
        residual = residual - length * applied
        before, size = size, _inner(residual, metric(residual))
        direction = residual + torch.where(going, size / torch.where(going, before, 1), 0) * direction
    return found


def _length(
    inputs: Tensor,
    targets: Tensor,
    duals: Tensor,
    step: Tensor,
    penalised: Tensor,
    metric: Callable[[Tensor], Tensor],
    strength: float,
) -> Tensor:
    """The length (T, 1, 1) that has the lowest loss in each task: 1, 1/2, 1/4, ..., or 0 if only rounding is left."""
    at, along = inputs @ duals, inputs @ step
    losses = []
    for length in (*(0.5**halved for halved in range(HALVINGS)), 0.0):
        moved = penalised * (duals + length * step)
        entropy = -(targets * (at + length * along).log_softmax(dim=2)).sum(dim=(1, 2), keepdim=True)
        losses.append(strength * entropy + _inner(moved, metric(moved)) / 2)
    best = torch.stack(losses).argmin(dim=0)
    return torch.where(best < HALVINGS, torch.exp2(-best.to(duals.dtype)), 0)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=(1, 2), keepdim=True)
