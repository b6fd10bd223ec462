"""W-MSE: mean squared error of whitened embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class WMSE(Loss):
    """``2 - 2 cos`` of two views after whitening each (Ermolov et al. 2021, arXiv:2007.06346, sec. 3).

    At every step the batch is split at random, in the same way for both views, into sub-batches of ``size`` images.
    Each is whitened with the inverse of its covariance's Cholesky factor, separately for each view, as in the authors'
    code. Whitened embeddings cannot collapse, so there are no negatives. The draws come from the step context.

    If a covariance is singular although ``size`` > D (a dead dimension, a collapsed encoder), there is no such factor.
    The loss is then NaN and training stops; ``epsilon`` is the remedy.

    Args:
        size: Images in a sub-batch: more than the embedding's width D, ideally 2 D or more, and a divisor of the batch
            size.
        iterations: How often the batch is split at each step, at least 1.
        epsilon: Share of the identity that is mixed into the covariance, in [0, 1).
    """

    views = 2
    most_views = 2

    def __init__(self, size: int, iterations: int, epsilon: float) -> None:
        super().__init__()
        for name, value, least in (("size", size, 2), ("iterations", iterations, 1)):
            if not value >= least:
                raise InvalidValue(f"{name}={value}; it must be at least {least}")
        if not 0 <= epsilon < 1:
            raise InvalidValue(f"epsilon={epsilon}; it is a share, so give a number in [0, 1)")
        self.size, self.iterations, self.epsilon = size, iterations, epsilon

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (2, B, D), unnormalised."""
        online = embeddings.online
        if len(online) != 2:
            raise InvalidValue(f"W-MSE compares 2 views, got {len(online)}; set batching.views=2")
        _, images, width = online.shape
        if images % self.size:
            raise InvalidValue(
                f"a batch of {images} images cannot be split into sub-batches of loss.size={self.size}; "
                "make loss.size a divisor of the batch size"
            )
        if self.size <= width:
            raise InvalidValue(
                f"loss.size={self.size} images are too few for a covariance of {width} dimensions; "
                f"set loss.size={2 * width} and a batch size that it divides, or choose a narrower head"
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
        """Groups (..., size, D) with mean 0 and identity covariance, and how close to singular they were.

        The latter is log10 of the largest ratio of squared diagonal entries of a factor, a lower bound of the
        covariance's condition number. Above 6, float32 has lost most of its digits.
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
