"""Multinomial logistic regression, solved to convergence."""

import math
import warnings
from collections import deque
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Converged: no entry of the preconditioned gradient is larger than TOLERANCE, or its norm is below NORM * TOLERANCE
# times the root of the loss. Half the squared norm is about the excess of the loss, which is then 2e-7 of the loss.
TOLERANCE = 2e-5
NORM = 30
HISTORY = 20  # steps from which L-BFGS estimates the curvature

Pairs = deque[tuple[Tensor, Tensor, float]]


def standardise(gallery: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets, standardised with the gallery's means and deviations; features constant in the gallery become 0."""
    mean = gallery.mean(dim=0)
    std = (gallery - mean).square().mean(dim=0).sqrt()
    # By rounding, a constant feature has a deviation of about 1e-7 of its value.
    varies = std > 1e-6 * mean.abs()
    scale = torch.where(varies, 1 / std, 0)
    return (gallery - mean) * scale, (queries - mean) * scale


class Regression:
    """Logistic regression of labels (N,) on standardised features (N, D), for several strengths of regularisation.

    L-BFGS optimises V in W = U diag(d) V. U holds the eigenvectors of the features' covariance, s its eigenvalues, and
    d = (s / K + r)^(-1/2) for K classes, sqrt(K) for the bias. At W = 0 the curvature is then 1 in every direction (the
    softmax contributes 1/K there, which for two classes is Boehning's bound of 1992). The solution is the same, but
    correlated features need tens of iterations instead of thousands, and so do thousands of classes.

    A fit that starts from given weights also starts from the curvature that the last fit has seen: cross-entropy is the
    same, and the curvature of the penalty is known. Where classes overlap, that saves a third of the evaluations.
    """

    def __init__(self, features: Tensor, labels: Tensor, n_classes: int, max_iterations: int) -> None:
        covariance = (features.T @ features / len(features)).cpu().double()
        spectrum, axes = torch.linalg.eigh(covariance)
        self.spectrum = spectrum.clamp(min=0).to(features)
        self.axes = axes.to(features)
        self.features = features @ self.axes
        self.labels = labels
        self.rows = torch.arange(len(labels), device=labels.device)
        self.max_iterations = max_iterations
        self.shape = (features.shape[1] + 1, n_classes)
        # steps of W, in the last fit, and the changes of the cross-entropy's gradient that they made
        self.seen: list[tuple[Tensor, Tensor]] = []

    def fit(self, regularisation: float, start: Tensor | None = None) -> Tensor:
        """Weights (D + 1, n_classes), bias last, starting from such weights or from 0; warns if not converged."""
        n_classes = self.shape[1]
        scale = self.features.new_full((self.shape[0], 1), n_classes**0.5)
        scale[:-1, 0] = (self.spectrum / n_classes + regularisation).rsqrt()
        penalty = torch.full_like(scale, regularisation)
        penalty[-1] = 0
        pairs: Pairs = deque(maxlen=HISTORY)
        for step, change in self.seen if start is not None else []:
            _remember(pairs, step / scale, (change + penalty * step) * scale)
        begin = self.features.new_zeros(self.shape) if start is None else _rotate(self.axes.T, start) / scale

        def loss(scaled: Tensor) -> tuple[float, Tensor]:
            value, gradient = self.loss(scaled * scale, regularisation)
            return value, gradient * scale

        solution, value, gradient = minimise(loss, begin, self.max_iterations, pairs)
        steps = [(step * scale, change / scale) for step, change, _ in pairs]
        self.seen = [(step, change - penalty * step) for step, change in steps]
        if not _converged(value, gradient):
            warnings.warn(
                f"linear probe not converged at regularisation {regularisation:g}: largest gradient entry "
                f"{gradient.abs().max().item():.1e}, expected {TOLERANCE:g}; raise "
                f"eval.linear_probe.max_iterations={self.max_iterations}",
                RuntimeWarning,
                stacklevel=2,
            )
        return _rotate(self.axes, solution * scale)

    def loss(self, weights: Tensor, regularisation: float) -> tuple[float, Tensor]:
        """The loss and its explicit gradient, which takes half the time of autograd."""
        # (K, N): with few classes, softmax over rows of the other layout takes a fifth of the whole time
        logs = F.log_softmax(logits(weights, self.features).T.contiguous(), dim=0)
        # Summed in float64, since rounding would stall the line search; on the CPU, since not every device has float64.
        penalty = regularisation / 2 * weights[:-1].cpu().double().square().sum()
        value = penalty - logs[self.labels, self.rows].cpu().double().mean()
        residuals = logs.exp_()
        residuals[self.labels, self.rows] -= 1
        residuals /= len(self.labels)
        # features.T @ residuals.T would be three to ten times slower with few classes.
        gradient = torch.cat([(residuals @ self.features).T, residuals.sum(dim=1)[None]])
        gradient[:-1] += regularisation * weights[:-1]
        return value.item(), gradient


def minimise(
    loss: Callable[[Tensor], tuple[float, Tensor]], start: Tensor, max_iterations: int, pairs: Pairs | None = None
) -> tuple[Tensor, float, Tensor]:
    """L-BFGS (Nocedal and Wright 2006, algorithm 7.4) for a convex function whose curvature is about 1 at the start.

    A full step is tried first and shortened until the loss falls enough (Armijo), so nearly every step costs one
    evaluation. Torch's L-BFGS starts with a tiny step and searches from there.

    Args:
        loss: Returns value and gradient.
        start: A tensor of any shape.
        max_iterations: Largest number of iterations.
        pairs: What is known of the curvature: steps, the changes of the gradient and their products. Those of this
            search are added.

    Returns:
        The best point found, its value and its gradient.
    """
    place, (value, gradient) = start, loss(start)
    pairs = deque(maxlen=HISTORY) if pairs is None else pairs
    for _ in range(max_iterations):
        if _converged(value, gradient):
            break
        direction = _direction(gradient, pairs)
        slope, length = _inner(direction, gradient), 1.0
        new = place - direction
        new_value, new_gradient = loss(new)
        # the small allowance is for rounding in float32
        while not new_value <= value - 1e-4 * length * slope + 1e-8 * abs(value) and length > 1e-6:
            length /= 4
            new = place - length * direction
            new_value, new_gradient = loss(new)
        if length <= 1e-6:  # only rounding errors are left
            break
        _remember(pairs, new - place, new_gradient - gradient)
        place, value, gradient = new, new_value, new_gradient
    return place, value, gradient


def _remember(pairs: Pairs, step: Tensor, change: Tensor) -> None:
    if (product := _inner(step, change)) > 0:
        pairs.append((step, change, product))


def _direction(gradient: Tensor, pairs: Pairs) -> Tensor:
    """The gradient times the inverse curvature, estimated from the pairs of steps and gradient changes."""
    found, shares = gradient.clone(), []
    for step, change, product in reversed(pairs):
        shares.append(_inner(step, found) / product)
        found.sub_(change, alpha=shares[-1])
    if pairs:
        _, change, product = pairs[-1]
        found *= product / _inner(change, change)
    for step, change, product in pairs:
        found.add_(step, alpha=shares.pop() - _inner(change, found) / product)
    return found


def _inner(first: Tensor, second: Tensor) -> float:
    return torch.dot(first.flatten(), second.flatten()).item()


def _converged(value: float, gradient: Tensor) -> bool:
    largest, norm = gradient.abs().max().item(), gradient.norm().item()
    return largest <= TOLERANCE or norm <= NORM * TOLERANCE * math.sqrt(max(value, 0))


def _rotate(axes: Tensor, weights: Tensor) -> Tensor:
    return torch.cat([axes @ weights[:-1], weights[-1:]])


def logits(weights: Tensor, features: Tensor) -> Tensor:
    """Scores (N, n_classes) of features (N, D) by weights (D + 1, n_classes), bias last."""
    # With few classes, a contiguous transpose halves the time of this product.
    return F.linear(features, weights[:-1].T.contiguous(), weights[-1])
