"""Transductive information maximisation."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier

BETAS, EPS = (0.9, 0.999), 1e-8  # Adam's, arXiv:1412.6980


class Tim(TaskClassifier):
    """TIM-GD (Boudiaf et al. 2020, arXiv:2008.11297): from class means of L2-normalised features on, Adam moves the
    weights w so that they classify the support and their predictions of the queries have high mutual information.

    The loss (eq. 3) is lambda CE(support) - H(mean prediction of the queries) + alpha H(prediction of a query). The
    entropy of the mean favours equally many queries of each class.

    Args:
        steps: Steps of Adam, at least 1.
        lr: Its learning rate, above 0.
        temperature: tau, above 0.
        support_weight: lambda, above 0.
        conditional_weight: alpha, above 0.

    Raises:
        ValueError: A number is out of range.
    """

    transductive: ClassVar[bool] = True

    def __init__(
        self, steps: int, lr: float, temperature: float, support_weight: float, conditional_weight: float
    ) -> None:
        check(steps, lr, temperature, support_weight, conditional_weight)
        self.steps, self.lr, self.temperature = steps, lr, temperature
        self.support_weight, self.conditional_weight = support_weight, conditional_weight

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Log-probabilities of the queries, (T, Q, n_way)."""
        weights, targets = class_means(support, labels, n_way), F.one_hot(labels, n_way).to(support.dtype)
        mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
        for step in range(1, self.steps + 1):
            with torch.enable_grad():
                weights = weights.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.loss(weights, support, targets, query), weights)
            mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
            square = BETAS[1] * square + (1 - BETAS[1]) * gradient.square()
            moment, scale = mean / (1 - BETAS[0] ** step), (square / (1 - BETAS[1] ** step)).sqrt() + EPS
            weights = weights.detach() - self.lr * moment / scale
        return probabilities(query, weights, self.temperature)

    def loss(self, weights: Tensor, support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
        """The sum of the tasks' losses; the gradient of a task's weights does not depend on other tasks."""
        logs = probabilities(query, weights, self.temperature)
        marginal = logs.exp().mean(dim=1)
        entropy = -(marginal * marginal.clamp_min(torch.finfo(marginal.dtype).tiny).log()).sum()
        conditional = -(logs.exp() * logs).sum(dim=2).mean(dim=1).sum()
        of_support = -(targets * probabilities(support, weights, self.temperature)).sum(dim=2).mean(dim=1).sum()
        return self.support_weight * of_support - entropy + self.conditional_weight * conditional

    def recipe(self) -> str:
        """In a sentence."""
        return (
            f"TIM-GD on L2-normalised features: {self.steps:,} steps of Adam, learning rate {self.lr:g}, tau "
            f"{self.temperature:g}, lambda {self.support_weight:g}, alpha {self.conditional_weight:g}"
        )

    def shortened(self) -> "Tim":
        """With one step."""
        return Tim(1, self.lr, self.temperature, self.support_weight, self.conditional_weight)


class TimAdm(TaskClassifier):
    """TIM-ADM (Boudiaf et al. 2020, arXiv:2008.11297): the objective of TIM-GD, minimised by alternating closed-form
    updates of auxiliary predictions q and weights w (proposition 1), in a tenth of the time.

    Args:
        steps: Pairs of updates, at least 1.
        temperature: tau, above 0.
        support_weight: lambda, above 0.
        conditional_weight: alpha, above 0.

    Raises:
        ValueError: A number is out of range.
    """

    transductive: ClassVar[bool] = True

    def __init__(self, steps: int, temperature: float, support_weight: float, conditional_weight: float) -> None:
        check(steps, 1.0, temperature, support_weight, conditional_weight)
        self.steps, self.temperature = steps, temperature
        self.support_weight, self.conditional_weight = support_weight, conditional_weight

    def scores(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
        """Log-probabilities of the queries, (T, Q, n_way)."""
        weights, targets = class_means(support, labels, n_way), F.one_hot(labels, n_way).to(support.dtype)
        of_support, of_query = self.support_weight / (1 + self.conditional_weight), support.shape[1] / query.shape[1]
        for _ in range(self.steps):
            wanted = self.wanted(query, weights)
            total = of_support * targets.sum(dim=1) + of_query * wanted.sum(dim=1)
            pulled = of_support * self._pull(weights, support, targets) + of_query * self._pull(weights, query, wanted)
            weights = pulled / total[..., None]
        return probabilities(query, weights, self.temperature)

    def wanted(self, query: Tensor, weights: Tensor) -> Tensor:
        """q (T, Q, n_way) in proportion to p^(1 + alpha) / (sum over queries of p^(1 + alpha))^(1/2)."""
        logs = (1 + self.conditional_weight) * probabilities(query, weights, self.temperature)
        return (logs - logs.logsumexp(dim=1, keepdim=True) / 2).softmax(dim=2)

    def _pull(self, weights: Tensor, features: Tensor, wanted: Tensor) -> Tensor:
        """The sum of q z + p (w - z) over images, (T, n_way, D)."""
        given = probabilities(features, weights, self.temperature).exp()
        return (wanted - given).mT @ features + given.sum(dim=1)[..., None] * weights

    def recipe(self) -> str:
        """In a sentence."""
        return (
            f"TIM-ADM on L2-normalised features: {self.steps:,} steps, tau {self.temperature:g}, lambda "
            f"{self.support_weight:g}, alpha {self.conditional_weight:g}"
        )

    def shortened(self) -> "TimAdm":
        """With one step."""
        return TimAdm(1, self.temperature, self.support_weight, self.conditional_weight)


def probabilities(features: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Logarithms of p (T, M, n_way), the softmax of -tau / 2 |w_k - z|^2 (eq. 1).

    Args:
        features: z, (T, M, D).
        weights: w, (T, n_way, D).
        temperature: tau.
    """
    # |z|^2 is the same for all classes
    logits = features @ weights.mT - weights.square().sum(dim=2)[:, None] / 2
    return (temperature * logits).log_softmax(dim=2)


def check(steps: int, lr: float, temperature: float, support_weight: float, conditional_weight: float) -> None:
    """Raises ValueError unless there is a step and the numbers are above 0."""
    if steps < 1:
        raise InvalidValue(f"steps={steps}; give at least 1")
    positive = {"lr": lr, "temperature": temperature}
    positive |= {"support_weight": support_weight, "conditional_weight": conditional_weight}
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise InvalidValue(f"{name}={value}; give a number above 0")
