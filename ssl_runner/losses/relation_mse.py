"""Squared error of relation scores."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class RelationMSE(Loss):
    """Mean squared error of sigmoid(logits) to one-hot labels (Sung et al. 2018, arXiv:1711.06025, eq. 2).

    The mean is over images and classes, as in the authors' code. The paper writes a sum, which only changes the scale
    of the gradient. Besides ``accuracy``, the metrics ``positive_score`` and ``negative_score`` are the mean relation,
    in [0, 1], to the correct class and to the others. If both are 1 / classes, nothing has been learned.
    """

    needs = frozenset({"labels"})
    of_logits = True

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, classes), logits; labels: (B,)."""
        logits = embeddings.online.float() if embeddings.online.dtype.itemsize < 4 else embeddings.online
        assert embeddings.labels is not None
        relations = logits.sigmoid().flatten(0, 1)
        labels = embeddings.labels.expand(logits.shape[:2]).flatten()
        targets = F.one_hot(labels, logits.shape[-1]).to(relations.dtype)
        loss = F.mse_loss(relations, targets)
        relations = relations.detach()
        own = (relations * targets).sum() / len(labels)
        others = (relations * (1 - targets)).sum() / (1 - targets).sum().clamp_min(1)
        accuracy = (relations.argmax(dim=-1) == labels).to(torch.float32).mean()
        return loss, {"accuracy": accuracy, "positive_score": own, "negative_score": others}
