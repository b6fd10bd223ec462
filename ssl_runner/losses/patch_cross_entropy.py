"""Cross-entropy of patches: iBOT's and DINOv2's second loss."""

import torch
from torch import Tensor

from ssl_runner.losses.distillation import Distillation
from ssl_runner.losses.loss import Embeddings
from ssl_runner.runtime import collectives, process_group
from ssl_runner.runtime.step_context import StepContext


class PatchCrossEntropy(Distillation):
    """Cross-entropy between the teacher's and the student's probabilities of each hidden patch (iBOT, Zhou et al. 2021,
    arXiv:2111.07832, eq. 3; DINOv2, arXiv:2304.07193, sec. 4), over the hidden patches of each mask, then over masks.

    `Distillation` explains the arguments. Center and balance are those of the hidden patches (DINOv2's code; iBOT's
    center is that of all patches).
    """

    needs = frozenset({"patches", "patch_scores"})

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """patches: predicted and target scores (R, P, K), weights (R, P)."""
        patches = embeddings.patches
        assert patches is not None
        target = patches.target.detach().flatten(0, 1).to(torch.promote_types(patches.target.dtype, torch.float32))
        weights = patches.weights.flatten().to(target.dtype)
        teacher = self._teacher(target, weights, context)
        shape = patches.target.shape

        def told(predicted: Tensor, _: Tensor) -> Tensor:
            student = (predicted / self.student_temperature).log_softmax(dim=-1)
            return -(teacher.view(shape) * student).sum(dim=-1)

        loss = patches.mean(told)
        return loss, self.metrics(*self._means(teacher, weights), context)

    @torch.no_grad()
    def _means(self, teacher: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the probabilities (n, K) and of their entropies over the hidden patches of all processes."""
        entropy = weights @ torch.special.entr(teacher).sum(dim=1)
        sums = collectives.total(torch.cat([weights @ teacher, entropy[None], weights.sum()[None]]))  # one message
        means = sums[:-1] / sums[-1].clamp_min(1e-6)
        return means[:-1], means[-1]

    def _teacher(self, target: Tensor, weights: Tensor, context: StepContext) -> Tensor:
        """Probabilities (n, K) of this process's rows."""
        counted = weights > 0
        if self.centering == "center" or process_group.size() == 1:
            return self.probabilities(target, context, counted)
        every = self.probabilities(collectives.gather(target), context, collectives.gather(counted))
        return every.unflatten(0, (process_group.size(), -1))[process_group.rank()]
