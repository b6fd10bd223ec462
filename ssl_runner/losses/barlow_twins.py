"""Barlow Twins."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class BarlowTwins(Loss):
    """Drives the cross-correlation of two views to the identity (Zbontar et al. 2021, arXiv:2103.03230, eq. 1 and 2).

    ``sum_i (1 - C_ii)^2 + off_diagonal_weight sum_{i != j} C_ij^2``, where C is the correlation over the batch of the
    dimensions of one view with those of the other. As in the authors' code, the dimensions are standardised like in
    batch normalisation, with 1e-5 under the root, so a constant dimension has correlation 0 instead of NaN.

    Args:
        off_diagonal_weight: At least 0; lambda in the paper.
    """

    views = 2
    most_views = 2

    def __init__(self, off_diagonal_weight: float) -> None:
        super().__init__()
        if not off_diagonal_weight >= 0:
            raise InvalidValue(
                f"off_diagonal_weight={off_diagonal_weight}; it weights a penalty, so give a number of at least 0, "
                "say 0.005"
            )
        self.off_diagonal_weight = off_diagonal_weight

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, B, D), unnormalised; B at least 2."""
        online = embeddings.online
        if len(online) != 2:
            raise InvalidValue(f"Barlow Twins compares 2 views, got {len(online)}; set batching.views=2")
        if online.shape[1] < 2:
            raise InvalidValue(f"correlations need at least 2 images, got {online.shape[1]}; raise the batch size")
        online = online.to(torch.promote_types(online.dtype, torch.float32))
        variance, mean = torch.var_mean(online, dim=1, correction=0, keepdim=True)
        first, second = (online - mean) * (variance + 1e-5).rsqrt()
        correlation = first.T @ second / len(first)
        diagonal = correlation.diagonal()
        invariance = (1 - diagonal).square().sum()
        # removed before squaring: the difference of two large sums would lose precision
        redundancy = (correlation - torch.diag(diagonal)).square().sum()
        with torch.no_grad():
            pairs = max(len(correlation) * (len(correlation) - 1), 1)
            metrics = {
                "mean_correlation": diagonal.mean(),
                "off_diagonal_rms": (redundancy / pairs).sqrt(),
                "embedding_std": variance.sqrt().mean(),
            }
        return invariance + self.off_diagonal_weight * redundancy, metrics
