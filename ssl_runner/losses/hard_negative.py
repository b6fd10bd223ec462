"""HCL: contrastive learning with hard negatives."""

import math

import torch
from torch import Tensor

from ssl_runner.clock import Clock
from ssl_runner.losses.debiased import debiased_log_mean, refuse_tau_plus
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.similarity import anchor_metrics, refuse_temperature, two_views


class HardNegative(Loss):
    """Contrastive loss with hard negatives (Robinson et al. 2021, arXiv:2010.04592, eq. 4 and 6), HCL.

    The debiased loss, in which the mean over an anchor's negatives is weighted by importance,
    ``sum w e^(s/T) / sum w`` with ``w = e^(beta s / T)``: nearer negatives count more. With beta = 0 it is the debiased
    loss, with tau_plus = 0 as well NT-Xent.

    The weights are those of the authors' code, whose exponent carries the temperature; the pseudo-code of the paper's
    appendix differs from it. As there, the gradient passes through the weights. Computed in log space, because
    e^((1 + beta) / T) overflows float32 at T = 0.07 and beta = 10.

    Args:
        temperature: Above 0; divides the cosine similarities.
        tau_plus: In [0, 1): the probability that two images are of one class; see `Debiased` for the floor.
        beta: 0 or more: the concentration on hard negatives.
    """

    views = 2
    most_views = 2

    def __init__(self, temperature: float, tau_plus: float, beta: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        refuse_tau_plus(tau_plus)
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta={beta}, but it is how much nearer negatives count more; give 0 or more, say 1")
        self.temperature = temperature
        self.tau_plus = tau_plus
        self.beta = beta

    def forward(self, embeddings: Embeddings, clock: Clock) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, B, D), unnormalised."""
        positive, negative = two_views(embeddings.online, self.temperature)
        # masked anew, because 0 times -inf is NaN
        log_weight = (self.beta * negative).masked_fill(negative.isneginf(), -torch.inf)
        log_mean = (log_weight + negative).logsumexp(dim=1) - log_weight.logsumexp(dim=1)
        log_mean, clamped = debiased_log_mean(log_mean, positive, self.tau_plus, self.temperature)
        log_n = math.log(len(negative) - 2)
        loss = (torch.logaddexp(positive, log_mean + log_n) - positive).mean()
        with torch.no_grad():
            similarity = negative.masked_fill(negative.isneginf(), 0) * self.temperature
            weighted = (log_weight.softmax(dim=1) * similarity).sum(dim=1).mean()
        metrics = anchor_metrics(positive, negative, self.temperature)
        return loss, metrics | {"clamped_anchors": clamped.float().mean(), "weighted_negative_similarity": weighted}
