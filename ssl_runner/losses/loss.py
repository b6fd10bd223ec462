"""The interface of a loss, and the embeddings that it sees."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssl_runner.losses.negatives import Negatives
from ssl_runner.runtime import collectives, process_group
from ssl_runner.runtime.spans import span
from ssl_runner.runtime.step_context import StepContext


@dataclass(frozen=True)
class Patches:
    """Predicted patches of R masks, P of each. They are this process's own.

    Attributes:
        predicted: (R, P, D).
        target: (R, P, D) without gradient.
        weights: (R, P), of each patch in the mean of its mask; their sum is 1, or 0 for a mask that hides nothing.
    """

    predicted: Tensor
    target: Tensor
    weights: Tensor

    def mean(self, told: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The mean over masks, in which one that hides nothing counts 0.

        Args:
            told: From predicted and target, in at least float32, to the loss of each patch (R, P).
        """
        precision = torch.promote_types(self.predicted.dtype, torch.float32)
        found = told(self.predicted.to(precision), self.target.detach().to(precision))
        return (found * self.weights).sum() / len(self.weights)


@dataclass(frozen=True)
class Embeddings:
    """Everything that a loss may look at.

    Attributes:
        online: (V, B, D), unnormalised embeddings of V views, or logits for a classification loss.
        target: (G, B, D) without gradient, for the global views: the output of a teacher or of a branch without
            gradient. Or None.
        memory_bank: (M, D), earlier embeddings, or None.
        labels: int64 (B,), or None.
        memory_bank_labels: int64 (M,), or None.
        global_views: How many of the V views, counted from the first, are global ones; None if all are.
        patches: Predicted patches, or None.
    """

    online: Tensor
    target: Tensor | None = None
    memory_bank: Tensor | None = None
    labels: Tensor | None = None
    memory_bank_labels: Tensor | None = None
    global_views: int | None = None
    patches: Patches | None = None


class Loss(nn.Module):
    """A callable from embeddings to a scalar and metrics. It knows nothing of encoders, devices or processes.

    ``needs`` names the fields of `Embeddings` that it requires: ``labels``, ``target``, ``memory_bank``, ``patches``,
    ``patch_scores`` if those must be scores of prototypes, and ``prototypes`` if ``online`` must contain scores against
    them. ``uses`` names the fields that it uses if they are present. The wiring rejects a combination that does not
    fill a needed field, or that fills a field that the loss would ignore. ``views`` is the smallest number of views it
    compares, and ``most_views`` the largest, if there is a limit. ``of_logits`` means that it takes class scores
    instead of embeddings.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    uses: ClassVar[frozenset[str]] = frozenset()
    views: ClassVar[int] = 1
    most_views: ClassVar[int | None] = None
    of_logits: ClassVar[bool] = False

    def negatives(self, embeddings: Embeddings, context: StepContext) -> Negatives | None:
        """The negatives that repel each anchor in this loss, for diagnostics. None if the loss has no negatives.

        Called at the diagnostics' cadence (`ssl_runner.evaluation.negatives`), never in a training step.
        """
        return None

    @property
    def remembers(self) -> bool:
        """Whether `after_step` reads the targets; if not, nobody gathers them for it."""
        return type(self).after_step is not Loss.after_step

    def after_step(self, context: StepContext, target: Tensor) -> None:
        """Updates centers and other statistics from the targets (G, B, D). Called once after the optimizer's step,
        without gradient.
        """

    def __call__(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Calls `forward` in the precision of its arguments. Autocast would turn every product back into half
        precision.
        """
        kind = embeddings.online.device.type
        with span("loss"), torch.autocast("cpu" if kind == "meta" else kind, enabled=False):
            return super().__call__(embeddings, context)

    @abstractmethod
    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss as a scalar, and scalar metrics without gradient."""


def gathered(embeddings: Embeddings) -> Embeddings:
    """The embeddings of all processes. The memory bank is the same on each of them; patches stay each one's own."""
    if process_group.size() == 1:
        return embeddings
    target, labels = embeddings.target, embeddings.labels
    return replace(
        embeddings,
        online=collectives.gather(embeddings.online, 1),
        target=None if target is None else collectives.gather(target, 1),
        labels=None if labels is None else collectives.gather(labels),
    )
