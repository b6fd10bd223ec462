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

    Alignment is ``E |x - y|^alpha`` over the views x, y of an image, 0 at best; uniformity is
    ``log E e^(-t |x_i - x_j|^2)`` over the pairs of different images within a view, averaged over the views, 0 at worst
    and never below -4t. For more than two views alignment is averaged over their pairs.

    Args:
        alignment_weight: 0 or more.
        uniformity_weight: 0 or more.
        alpha: Above 0: the exponent of the distance.
        t: Above 0: the larger, the more the nearest pairs count.
    """

    views = 2

    def __init__(self, alignment_weight: float, uniformity_weight: float, alpha: float, t: float) -> None:
        super().__init__()
        for name, weight in (("alignment_weight", alignment_weight), ("uniformity_weight", uniformity_weight)):
            if not weight >= 0:
                raise InvalidValue(f"{name}={weight}, but a weight below 0 drives the wrong way; give 0 or more, say 1")
        for name, value in (("alpha", alpha), ("t", t)):
            if not value > 0:
                raise InvalidValue(f"{name}={value}, but distances must cost; give a number above 0, say 2")
        self.alignment_weight = alignment_weight
        self.uniformity_weight = uniformity_weight
        self.alpha = alpha
        self.t = t

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), unnormalised.

        Raises:
            ValueError: There is one view, or one image.
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
        """Mean of the distance to the power alpha, of normalised views (V, B, D)."""
        squared = torch.stack([(views[i] - views[j]).square().sum(-1) for i, j in combinations(range(len(views)), 2)])
        # for alpha below 2 the slope is infinite where two views coincide
        return squared.clamp_min(1e-12).pow(self.alpha / 2).mean()

    def uniformity(self, views: Tensor) -> Tensor:
        """Mean over views of the log of the mean Gaussian potential, of normalised views (V, B, D)."""
        n = views.shape[1]
        itself = torch.eye(n, dtype=torch.bool, device=views.device)
        # |x - y|^2 = 2 - 2xy on the sphere
        exponents = (2 * self.t * (views @ views.mT - 1)).masked_fill(itself, -torch.inf)
        return (exponents.flatten(1).logsumexp(dim=1) - math.log(n * (n - 1))).mean()
