"""What a loss is, and what it sees."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ssl_runner.clock import Clock


@dataclass(frozen=True)
class Embeddings:
    """All that a loss may look at.

    Attributes:
        online: (V, B, D), unnormalised embeddings of V views (or logits, for a classifier's loss).
        target: (V, B, D) of a teacher, without gradient, or None.
        memory: (M, D) earlier embeddings, or None.
        labels: int64 (B,), or None.
        memory_labels: int64 (M,), or None.
    """

    online: Tensor
    target: Tensor | None = None
    memory: Tensor | None = None
    labels: Tensor | None = None
    memory_labels: Tensor | None = None


class Loss(nn.Module):
    """A callable from embeddings to a scalar and metrics; it knows nothing of encoders, devices or processes.

    ``needs`` names the fields of `Embeddings` it cannot do without (``labels``, ``target``, ``memory``), and the
    wiring refuses a combination that does not fill them. ``views`` is the least number of views it compares, and
    ``of_logits`` says that it takes scores of classes for embeddings.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    views: ClassVar[int] = 1
    of_logits: ClassVar[bool] = False

    @abstractmethod
    def forward(self, embeddings: Embeddings, clock: Clock) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss, and scalar metrics without gradient."""
