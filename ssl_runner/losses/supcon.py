"""SupCon: supervised contrastive learning between classes."""

import torch
from torch import Tensor

from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.negatives import Negatives, softmax_negatives
from ssl_runner.losses.similarity import compare_all, refuse_lone_image, refuse_temperature, unit
from ssl_runner.runtime.step_context import StepContext


class SupCon(Loss):
    """Supervised contrastive loss (Khosla et al. 2020, arXiv:2004.11362, eq. 2, L_out).

    For each anchor, the mean over its positives of ``-log(e^(s+/T) / sum e^(s/T))``. Positives are all other views of
    images of its class, including those of its own image; the sum is over all views except the anchor. An anchor
    without positives counts 0. If every image has its own class and there are two views, this is NT-Xent.

    Deviations: the mean over anchors instead of the paper's sum, and without the factor T / 0.07 of the authors' code.

    Args:
        temperature: Above 0; divides the cosine similarities.
    """

    needs = frozenset({"labels"})

    def __init__(self, temperature: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        self.temperature = temperature

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), unnormalised, with any number of views; labels: (B,)."""
        assert embeddings.labels is not None
        online = unit(embeddings.online)
        rows = online.flatten(0, 1)
        refuse_lone_image(len(rows))
        labels = embeddings.labels.repeat(len(online))
        found = compare_all(rows, (1 / self.temperature,), classes=labels)
        positive, count = mean_similarity_to_class(rows, labels)
        attracted = count > 0
        loss = ((found.log_sums[0] - positive / self.temperature) * attracted).mean()
        with torch.no_grad():
            metrics = {
                "contrastive_accuracy": (found.nearest > found.nearest_of_another_class).float().mean(),
                "positive_similarity": positive.sum() / attracted.sum().clamp_min(1),
                "anchors_without_positive": (~attracted).float().mean(),
            }
        return loss, metrics

    @torch.no_grad()
    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """Softmax of s/T over the views of other classes."""
        return softmax_negatives(embeddings.online, 1 / self.temperature, embeddings.labels)


def mean_similarity_to_class(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean product of each row with the other rows of its class, computed from class sums and so in linear memory.

    Args:
        rows: (M, D).
        labels: (M,).

    Returns:
        The mean (M,), which is 0 for a row alone in its class, and the number of other rows (M,).
    """
    group = torch.searchsorted(labels.sort().values, labels)  # a number below M for each class
    total = torch.zeros_like(rows).index_add(0, group, rows).index_select(0, group)
    count = torch.zeros_like(labels).index_add(0, group, torch.ones_like(labels)).index_select(0, group) - 1
    others = ((total - rows) * rows).sum(dim=1)
    return others / count.clamp_min(1), count
