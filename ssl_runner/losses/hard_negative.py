"""HCL: contrastive learning with hard negatives."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.debiased import debiased_log_mean, refuse_tau_plus
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, softmax_negatives
from ssl_runner.losses.similarity import anchor_metrics, compare_all, refuse_temperature, two_views
from ssl_runner.runtime.step_context import StepContext


class HardNegative(Loss):
    """Contrastive loss with hard negatives, HCL (Robinson et al. 2021, arXiv:2010.04592, eq. 4 and 6).

    It is the debiased loss in which the mean over an anchor's negatives is importance-weighted, ``sum w e^(s/T) / sum
    w`` with ``w = e^(beta s / T)``, so nearer negatives count more. With beta = 0 it is the debiased loss, and if
    tau_plus = 0 as well, it is NT-Xent.

    The weights are those of the authors' code, where the exponent is divided by the temperature; the pseudo-code in the
    paper's appendix differs. As in the code, gradients pass through the weights. It is computed in log space, because
    e^((1 + beta) / T) overflows float32 at T = 0.07 and beta = 10.

    Args:
        temperature: Above 0; divides the cosine similarities.
        tau_plus: In [0, 1): the probability that two images belong to one class; see `Debiased` for the floor.
        beta: Concentration on hard negatives, at least 0.
    """

    views = 2
    most_views = 2

    def __init__(self, temperature: float, tau_plus: float, beta: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        refuse_tau_plus(tau_plus)
        if not 0 <= beta < math.inf:
            raise InvalidValue(f"beta={beta}; it is the concentration on hard negatives, so give 0 or more, say 1")
        self.temperature = temperature
        self.tau_plus = tau_plus
        self.beta = beta
        self.scales = beta / temperature, (1 + beta) / temperature  # scales of the weights and of the weighted terms

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, B, D), unnormalised."""
        positive, rows = two_views(embeddings.online)
        found = compare_all(rows, self.scales, apart=len(rows) // 2, weigh=True)
        log_n = math.log(len(rows) - 2)
        scaled = positive / self.temperature
        log_mean = found.log_sums[1] - found.log_sums[0]
        log_mean, clamped = debiased_log_mean(log_mean, scaled, self.tau_plus, self.temperature)
        loss = (torch.logaddexp(scaled, log_mean + log_n) - scaled).mean()
        assert found.weighted is not None
        metrics = anchor_metrics(positive, found.nearest[:, None], 1.0) | {
            "clamped_anchors": clamped.float().mean(),
            "weighted_negative_similarity": found.weighted.mean(),
        }
        return loss, metrics

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Importance times e^(s/T), which is the softmax of (1 + beta) s/T. An anchor at the floor has none.

        The importance is treated as constant: the gradient through it, in which the easiest negatives attract, is left
        out.
        """
        positive, rows = two_views(embeddings.online)
        found = compare_all(rows, self.scales, apart=len(rows) // 2)
        log_mean = found.log_sums[1] - found.log_sums[0]
        _, clamped = debiased_log_mean(log_mean, positive / self.temperature, self.tau_plus, self.temperature)
        shown = softmax_negatives(embeddings.online, (1 + self.beta) / self.temperature)
        return replace(shown, weight=shown.weight.masked_fill(clamped[:, None], 0))
