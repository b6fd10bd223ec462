"""VICReg."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class VICReg(Loss):
    """Variance, invariance and covariance regularisation (Bardes et al. 2022, arXiv:2105.04906, eq. 6).

    ``invariance s + variance v + covariance c`` of two views, where c is the sum over both views (eq. 3 and 4). Where
    the paper and the authors' code differ, this follows the code, with which the paper's weights were found: s is the
    mean over images *and dimensions* (eq. 5 sums over dimensions), and v is the mean of the two views' hinges (eq. 6
    adds them). Variances and covariances divide by B - 1.

    Args:
        invariance: Weight of s, the squared distance between the views; lambda in the paper.
        variance: Weight of v, the hinge on each dimension's standard deviation; mu in the paper.
        covariance: Weight of c, the squared covariances of different dimensions, divided by D; nu in the paper.
        gamma: The standard deviation above which a dimension costs nothing, above 0.
        epsilon: Added to variances under the root, whose derivative is infinite at 0; above 0.
    """

    views = 2
    most_views = 2

    def __init__(self, invariance: float, variance: float, covariance: float, gamma: float, epsilon: float) -> None:
        super().__init__()
        for name, value in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
            if not value >= 0:
                raise InvalidValue(f"{name}={value}; it is a weight, so give a number of at least 0")
        for name, value in (("gamma", gamma), ("epsilon", epsilon)):
            if not value > 0:
                raise InvalidValue(f"{name}={value}; a standard deviation is positive, so give a number above 0")
        self.invariance, self.variance, self.covariance = invariance, variance, covariance
        self.gamma, self.epsilon = gamma, epsilon

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, B, D), unnormalised; B at least 2."""
        online = embeddings.online
        if len(online) != 2:
            raise InvalidValue(f"VICReg compares 2 views, got {len(online)}; set batching.views=2")
        _, images, width = online.shape
        if images < 2:
            raise InvalidValue(f"a variance needs at least 2 images, got {images}; raise the batch size")
        online = online.to(torch.promote_types(online.dtype, torch.float32))
        invariance = (online[0] - online[1]).square().mean()
        spread, mean = torch.var_mean(online, dim=1, keepdim=True)
        deviation = (spread + self.epsilon).sqrt()
        variance = (self.gamma - deviation).relu().mean()
        centered = online - mean
        products = centered.mT @ centered / (images - 1)  # (2, D, D)
        off_diagonal = products - torch.diag_embed(products.diagonal(dim1=1, dim2=2))
        covariance = off_diagonal.square().sum() / width
        loss = self.invariance * invariance + self.variance * variance + self.covariance * covariance
        with torch.no_grad():
            metrics = {
                "invariance": invariance.detach(),
                "variance": variance.detach(),
                "covariance": covariance.detach(),
                "embedding_std": deviation.mean(),
            }
        return loss, metrics
