"""Alignment and uniformity on the hypersphere, optimised directly."""

import math
from itertools import combinations

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.similarity import refuse_lone_image, unit
from ssl_runner.runtime.step_context import StepContext


class AlignmentUniformity(Loss):
    """Weighted sum of alignment and uniformity (Wang, Isola 2020, arXiv:2005.10242, sec. 4.1 and 4.2).

    Alignment is ``E |x - y|^alpha`` over the views x, y of an image, and 0 at best. Uniformity is ``log E e^(-t |x_i -
    x_j|^2)`` over the pairs of different images within a view, averaged over the views; it is 0 at worst and never
    below -4t. With more than two views, alignment is averaged over pairs of views.

    Args:
        alignment_weight: At least 0.
        uniformity_weight: At least 0.
        alpha: Exponent of the distance, above 0.
        t: Above 0; the larger, the more the nearest pairs count.
    """

    views = 2

    def __init__(self, alignment_weight: float, uniformity_weight: float, alpha: float, t: float) -> None:
        super().__init__()
        for name, weight in (("alignment_weight", alignment_weight), ("uniformity_weight", uniformity_weight)):
            if not weight >= 0:
                raise InvalidValue(
                    f"{name}={weight}; a negative weight would reverse the term, so give 0 or more, say 1"
                )
        for name, value in (("alpha", alpha), ("t", t)):
            if not value > 0:
                raise InvalidValue(f"{name}={value}; it must be above 0, for example 2")
        self.alignment_weight = alignment_weight
        self.uniformity_weight = uniformity_weight
        self.alpha = alpha
        self.t = t

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), unnormalised.

        Raises:
            ValueError: There is only one view or one image.
        """
        online = embeddings.online
        if len(online) < 2:
            raise InvalidValue(f"alignment compares views, got {len(online)}; set batching.views=2")
        refuse_lone_image(online.shape[1])
        views = unit(online)
        alignment, uniformity = self.alignment(views), self.uniformity(views)
        loss = self.alignment_weight * alignment + self.uniformity_weight * uniformity
        return loss, {"alignment": alignment.detach(), "uniformity": uniformity.detach()}

    def alignment(self, views: Tensor) -> Tensor:
        """Mean distance to the power alpha, of normalised views (V, B, D)."""
        squared = torch.stack([(views[i] - views[j]).square().sum(-1) for i, j in combinations(range(len(views)), 2)])
        # for alpha below 2 the derivative is infinite where two views coincide
        return squared.clamp_min(1e-12).pow(self.alpha / 2).mean()

    def uniformity(self, views: Tensor) -> Tensor:
        """Mean over views of the log of the mean Gaussian potential, of normalised views (V, B, D)."""
        n = views.shape[1]
        itself = torch.eye(n, dtype=torch.bool, device=views.device)
        # |x - y|^2 = 2 - 2xy on the sphere
        exponents = (2 * self.t * (views @ views.mT - 1)).masked_fill(itself, -torch.inf)
        return (exponents.flatten(1).logsumexp(dim=1) - math.log(n * (n - 1))).mean()
