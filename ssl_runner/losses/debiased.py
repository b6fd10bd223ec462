"""The debiased contrastive loss."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, softmax_negatives
from ssl_runner.losses.similarity import anchor_metrics, compare_all, refuse_temperature, two_views
from ssl_runner.runtime.step_context import StepContext


class Debiased(Loss):
    """Debiased contrastive loss (Chuang et al. 2020, arXiv:2007.00224, eq. 7 and 8, with one positive, M = 1).

    It is NT-Xent in which the sum over the N = 2B - 2 negatives, some of which belong to the anchor's own class, is
    replaced by ``N max[(mean e^(s-/T) - tau_plus e^(s+/T)) / (1 - tau_plus), e^(-1/T)]``. It is computed in log space.
    With tau_plus = 0 it is NT-Xent.

    An anchor at the floor e^(-1/T) no longer repels any negative; ``clamped_anchors`` is the share of such anchors.
    With a temperature of 0.1 and a tau_plus of 0.1 they can be all anchors: raise the temperature then, or lower
    tau_plus.

    Args:
        temperature: Above 0; divides the cosine similarities.
        tau_plus: In [0, 1): the probability that two images belong to one class; 1 / classes if the classes are
            balanced.
    """

    views = 2
    most_views = 2

    def __init__(self, temperature: float, tau_plus: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        refuse_tau_plus(tau_plus)
        self.temperature = temperature
        self.tau_plus = tau_plus

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, B, D), unnormalised."""
        positive, rows = two_views(embeddings.online)
        found = compare_all(rows, (1 / self.temperature,), apart=len(rows) // 2)
        log_n = math.log(len(rows) - 2)
        scaled = positive / self.temperature
        log_mean, clamped = debiased_log_mean(found.log_sums[0] - log_n, scaled, self.tau_plus, self.temperature)
        loss = (torch.logaddexp(scaled, log_mean + log_n) - scaled).mean()
        metrics = anchor_metrics(positive, found.nearest[:, None], 1.0)
        return loss, metrics | {"clamped_anchors": clamped.float().mean()}

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the views of other images; an anchor at the floor has none."""
        positive, rows = two_views(embeddings.online)
        found = compare_all(rows, (1 / self.temperature,), apart=len(rows) // 2)
        log_mean = found.log_sums[0] - math.log(len(rows) - 2)
        _, clamped = debiased_log_mean(log_mean, positive / self.temperature, self.tau_plus, self.temperature)
        shown = softmax_negatives(embeddings.online, 1 / self.temperature)
        return replace(shown, weight=shown.weight.masked_fill(clamped[:, None], 0))


def refuse_tau_plus(tau_plus: float) -> None:
    """Raises ValueError unless tau_plus is in [0, 1)."""
    if not 0 <= tau_plus < 1:
        raise InvalidValue(
            f"tau_plus={tau_plus}; it is the share of false negatives, so give a number in [0, 1), say 1 / classes"
        )


def debiased_log_mean(log_mean: Tensor, positive: Tensor, tau_plus: float, temperature: float) -> tuple[Tensor, Tensor]:
    """Removes the anchor's own class from the mean over its negatives, in log space.

    Args:
        log_mean: (n,), log of the mean of e^(s/T) over the negatives of an anchor.
        positive: (n,), s/T of its positive.
        tau_plus: The share of the anchor's class.
        temperature: T.

    Returns:
        log max[(e^log_mean - tau_plus e^positive) / (1 - tau_plus), e^(-1/T)], and a mask of where the floor applies,
            both (n,).
    """
    log_share = (math.log(tau_plus) if tau_plus else -math.inf) + positive - log_mean
    negative_left = log_share < 0
    # the logarithm is only taken where it is defined: elsewhere it would make the gradient NaN
    log_rest = (-torch.expm1(log_share.where(negative_left, -1.0))).log()
    estimate = log_mean + log_rest - math.log1p(-tau_plus)
    clamped = ~negative_left | (estimate < -1 / temperature)
    return estimate.masked_fill(clamped, -1 / temperature), clamped
