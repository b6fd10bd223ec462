"""SupCon: contrast between classes."""

import torch
from torch import Tensor

from ssl_runner.clock import Clock
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.losses.similarity import refuse_lone_image, refuse_temperature, unit


class SupCon(Loss):
    """Supervised contrastive loss (Khosla et al. 2020, arXiv:2004.11362, eq. 2, L_out).

    Of each anchor, the mean over its positives of ``-log(e^(s+/T) / sum e^(s/T))``. Positives are all other views of
    images of its class, its own image's among them; the sum runs over all views but the anchor. An anchor without
    positives counts 0. With a class to each image and two views it is NT-Xent.

    Deviations: the mean over anchors for the paper's sum, and without the factor T / 0.07 of the authors' code.

    Args:
        temperature: Above 0; divides the cosine similarities.
    """

    needs = frozenset({"labels"})

    def __init__(self, temperature: float) -> None:
        super().__init__()
        refuse_temperature(temperature)
        self.temperature = temperature

    def forward(self, embeddings: Embeddings, clock: Clock) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, D), unnormalised, of any number of views; labels: (B,)."""
        assert embeddings.labels is not None
        flat = unit(embeddings.online).flatten(0, 1)
        refuse_lone_image(len(flat))
        labels = embeddings.labels.repeat(len(embeddings.online))
        similarity = flat @ flat.T / self.temperature
        itself = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
        others = similarity.masked_fill(itself, -torch.inf)
        positive = (labels[:, None] == labels[None, :]) & ~itself
        count = positive.sum(dim=1)
        attraction = (similarity * positive).sum(dim=1) / count.clamp_min(1)
        loss = ((others.logsumexp(dim=1) - attraction) * (count > 0)).mean()
        with torch.no_grad():
            nearest_is_positive = positive.gather(1, others.argmax(dim=1, keepdim=True))
            metrics = {
                "contrastive_accuracy": nearest_is_positive.float().mean(),
                "positive_similarity": self.temperature * attraction.sum() / (count > 0).sum().clamp_min(1),
                "anchors_without_positive": (count == 0).float().mean(),
            }
        return loss, metrics
