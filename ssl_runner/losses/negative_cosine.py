"""The negative cosine, the loss of SimSiam and BYOL."""

import math

import torch
from torch import Tensor

from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.similarity import different_views, unit
from ssl_runner.runtime.step_context import StepContext


class NegativeCosine(Loss):
    """Negative cosine between the prediction of one view and the target of another.

    SimSiam's loss (Chen, He 2021, arXiv:2011.10566, eq. 2) is the mean over images and ordered pairs of different
    views, in [-1, 1]. BYOL's (Grill et al. 2020, arXiv:2006.07733, eq. 2) is the squared distance 2 - 2 cos, summed
    over its two directions. It equals 4 + 4 times this loss, so only the scale of the gradient differs, which is left
    to the learning rate.

    There are no negatives, so nothing in the loss keeps targets apart. ``target_spread`` shows whether they are: it is
    the standard deviation of a coordinate of the normalised targets over the batch, multiplied by sqrt(D). It is 1 if
    they are spread evenly over the sphere and 0 if all are equal (SimSiam, sec. 4.1).
    """

    needs = frozenset({"target"})
    views = 2

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), predictions; target: (G, B, D), used without gradient; both unnormalised."""
        assert embeddings.target is not None
        online, target = unit(embeddings.online), unit(embeddings.target.detach())
        pairs = different_views(len(online), len(target))
        loss = -torch.stack([(online[i] * target[j]).sum(dim=-1).mean() for i, j in pairs]).mean()
        spread = target.std(dim=1, correction=0).mean() * math.sqrt(target.shape[-1])
        return loss, {"positive_similarity": -loss.detach(), "target_spread": spread}
