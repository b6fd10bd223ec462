"""Cross-entropy of logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class CrossEntropy(Loss):
    """Softmax cross-entropy over the classes of the head, averaged over images and views.

    Args:
        label_smoothing: Share of the target that is spread over all classes, in [0, 1) (arXiv:1512.00567, sec. 7).
    """

    needs = frozenset({"labels"})
    of_logits = True

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise InvalidValue(f"label_smoothing={label_smoothing}; it is a share, so give a number in [0, 1)")
        self.label_smoothing = label_smoothing

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, classes), logits; labels: (B,)."""
        logits = embeddings.online.float() if embeddings.online.dtype.itemsize < 4 else embeddings.online
        assert embeddings.labels is not None
        labels = embeddings.labels.expand(logits.shape[:2]).flatten()
        logits = logits.flatten(0, 1)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        accuracy = (logits.detach().argmax(dim=-1) == labels).to(torch.float32).mean()
        return loss, {"accuracy": accuracy}
