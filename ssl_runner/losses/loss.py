"""What a loss is, and what it sees."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssl_runner.losses.negatives import Negatives
from ssl_runner.runtime import collectives, process_group
from ssl_runner.runtime.step_context import StepContext


@dataclass(frozen=True)
class Embeddings:
    """All that a loss may look at.

    Attributes:
        online: (V, B, D), unnormalised embeddings of V views (or logits, for a classifier's loss).
        target: (G, B, D) without gradient, of a teacher or of the branch that gets none, for the global views; or None.
        memory_bank: (M, D) earlier embeddings, or None.
        labels: int64 (B,), or None.
        memory_bank_labels: int64 (M,), or None.
        global_views: How many of the V views, the first ones, show the image at large; None for all.
    """

    online: Tensor
    target: Tensor | None = None
    memory_bank: Tensor | None = None
    labels: Tensor | None = None
    memory_bank_labels: Tensor | None = None
    global_views: int | None = None


class Loss(nn.Module):
    """A callable from embeddings to a scalar and metrics; it knows nothing of encoders, devices or processes.

    ``needs`` names the fields of `Embeddings` it cannot do without (``labels``, ``target``, ``memory_bank``;
    ``prototypes`` where ``online`` has to be scores of them), ``uses`` those it looks at where they are there. The
    wiring refuses a combination that does not fill the first, or that fills something which the loss would never look
    at. ``views`` is the least number of views it compares and ``most_views`` the greatest, where there is one;
    ``of_logits`` says that it takes scores of classes for embeddings.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    uses: ClassVar[frozenset[str]] = frozenset()
    views: ClassVar[int] = 1
    most_views: ClassVar[int | None] = None
    of_logits: ClassVar[bool] = False

    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """What repels each anchor in this loss, for people to look at; None where it has no negatives.

        Asked for at the diagnostics' cadence (`ssl_runner.evaluation.negatives`), never by a training step.
        """
        return None

    def after_step(self, context: StepContext, target: Tensor) -> None:
        """Centers and other statistics of the targets (G, B, D): once after the optimizer's step, without gradient."""

    def __call__(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """`forward`, in the precision of its arguments: autocast would bring every product back to half precision."""
        kind = embeddings.online.device.type
        with torch.autocast("cpu" if kind == "meta" else kind, enabled=False):
            return super().__call__(embeddings, context)

    @abstractmethod
    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss, and scalar metrics without gradient."""


def gathered(embeddings: Embeddings) -> Embeddings:
    """What a loss sees of all processes; the memory is the same on each."""
    if process_group.size() == 1:
        return embeddings
    target, labels = embeddings.target, embeddings.labels
    return replace(
        embeddings,
        online=collectives.gather(embeddings.online, 1),
        target=None if target is None else collectives.gather(target, 1),
        labels=None if labels is None else collectives.gather(labels),
    )
