"""Losses of predicted patches: what they see, and those that compare numbers."""

import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class MeanSquaredError(Loss):
    """Mean squared difference of predicted and true numbers of a patch (MAE, arXiv:2111.06377, sec. 3; data2vec 2.0,
    arXiv:2212.07525), over the hidden patches of each mask, then over masks.
    """

    needs = frozenset({"patches"})

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """patches: predicted and target (R, P, D), weights (R, P)."""
        assert embeddings.patches is not None
        return embeddings.patches.mean(lambda predicted, target: (predicted - target).square().mean(dim=-1)), {}


class SmoothL1(Loss):
    """Huber's loss divided by beta: squares below ``beta``, absolute differences above it (I-JEPA's code with 1;
    data2vec, arXiv:2202.03555, eq. 3).

    Args:
        beta: Where it changes, at least 0; 0 is the mean absolute difference (SimMIM, arXiv:2111.09886, sec. 3.4).

    Raises:
        ValueError: It is below 0.
    """

    needs = frozenset({"patches"})

    def __init__(self, beta: float) -> None:
        super().__init__()
        if not beta >= 0:
            raise InvalidValue(f"beta={beta}; squares end there, so give at least 0, which is the absolute difference")
        self.beta = beta

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """patches: predicted and target (R, P, D), weights (R, P)."""
        assert embeddings.patches is not None

        def told(predicted: Tensor, target: Tensor) -> Tensor:
            return F.smooth_l1_loss(predicted, target, reduction="none", beta=self.beta).mean(dim=-1)

        return embeddings.patches.mean(told), {}
