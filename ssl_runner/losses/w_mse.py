"""W-MSE: whitened mean squared error."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class WMSE(Loss):
    """``2 - 2 cos`` of two views after whitening each (Ermolov et al. 2021, arXiv:2007.06346, sec. 3).

    Every step the batch is cut at random, the same for both views, into sub-batches of ``size`` images. Each is
    whitened by the inverse of its covariance's Cholesky factor, one view apart from the other, as in the
    authors' code. Whitened embeddings cannot collapse, so there are no negatives. The draws come from the step context.

    A covariance that is singular in spite of ``size`` > D (a dead dimension, a collapsed encoder) has no such factor:
    the loss is NaN then, at which training stops; ``epsilon`` is the remedy.

    Args:
        size: Images of a sub-batch: above the embedding's width D, best at 2 D or more, and a divisor of the batch.
        iterations: At least 1: how often a step cuts the batch anew.
        epsilon: In [0, 1): share of the identity that is mixed into the covariance.
    """

    views = 2
    most_views = 2

    def __init__(self, size: int, iterations: int, epsilon: float) -> None:
        super().__init__()
        for name, value, least in (("size", size, 2), ("iterations", iterations, 1)):
            if not value >= least:
                raise InvalidValue(f"{name}={value}, but it is a number of at least {least}; raise it")
        if not 0 <= epsilon < 1:
            raise InvalidValue(f"epsilon={epsilon}, but it is a share; give a number in [0, 1)")
        self.size, self.iterations, self.epsilon = size, iterations, epsilon

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, B, D), unnormalised."""
        online = embeddings.online
        if len(online) != 2:
            raise InvalidValue(f"W-MSE compares 2 views, got {len(online)}; set batching.views=2")
        _, images, width = online.shape
        if images % self.size:
            raise InvalidValue(
                f"a batch of {images} images does not divide into sub-batches of loss.size={self.size}; "
                "make loss.size a divisor of the batch size"
            )
        if self.size <= width:
            raise InvalidValue(
                f"loss.size={self.size} images span no covariance of {width} dimensions; "
                f"give loss.size={2 * width} and a batch it divides, or a narrower head"
            )
        online = online.to(torch.promote_types(online.dtype, torch.float32))
        generator = context.generator("w_mse")
        order = torch.stack(
            [torch.randperm(images, generator=generator, device=context.device) for _ in range(self.iterations)]
        )
        whitened, condition = self.whiten(online[:, order].unflatten(2, (-1, self.size)))
        similarity = F.cosine_similarity(whitened[0], whitened[1], dim=-1).mean()
        return 2 - 2 * similarity, {"whitened_similarity": similarity.detach(), "log10_condition": condition}

    def whiten(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Groups (..., size, D) with mean 0 and identity covariance; and how near to singular they were.

        The second is log10 of the greatest ratio of the squared entries of a factor's diagonal, a lower bound of the
        covariance's condition number: above 6, float32 has lost most digits.
        """
        centered = groups - groups.mean(dim=-2, keepdim=True)
        covariance = centered.mT @ centered / (self.size - 1)
        identity = torch.eye(groups.shape[-1], dtype=groups.dtype, device=groups.device)
        # the checked version would wait for the device
        factor, failed = torch.linalg.cholesky_ex((1 - self.epsilon) * covariance + self.epsilon * identity)
        factor = factor.masked_fill((failed != 0)[..., None, None], torch.nan)
        diagonal = factor.detach().diagonal(dim1=-2, dim2=-1)
        condition = 2 * (diagonal.amax(dim=-1) / diagonal.amin(dim=-1)).max().log10()
        return torch.linalg.solve_triangular(factor, centered.mT, upper=False).mT, condition
