"""DINO: self-distillation with no labels."""

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.distillation import Distillation
from ssl_runner.losses.loss import Embeddings
from ssl_runner.runtime.step_context import StepContext


class DINO(Distillation):
    """Cross-entropy between the teacher's and the student's views (Caron et al. 2021, arXiv:2104.14294, eq. 1 to 4).

    The mean over all pairs of a teacher view and another student view of ``-sum P_t log P_s``, with ``P_s = softmax(s /
    student_temperature)`` and the teacher's probabilities of `Distillation`, which explains the arguments.
    """

    needs = frozenset({"target"})
    views = 2

    def forward(self, embeddings: Embeddings, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """online: (V, B, K), the student's outputs, global views first; target: (G, B, K), the teacher's outputs of the
        global views.
        """
        assert embeddings.target is not None
        precision = torch.promote_types(embeddings.online.dtype, torch.float32)
        online, target = embeddings.online.to(precision), embeddings.target.detach().to(precision)
        views, images, _ = online.shape
        if views < 2:
            raise InvalidValue("DINO compares different views, got 1 view; set batching.views=2")
        teacher = self.probabilities(target.flatten(0, 1), context).unflatten(0, target.shape[:2])
        student = (online / self.student_temperature).log_softmax(dim=-1)
        cross_entropy = -torch.einsum("gbk,vbk->gv", teacher, student) / images
        same = torch.eye(len(target), views, dtype=torch.bool, device=online.device)
        loss = cross_entropy.masked_fill(same, 0).sum() / (len(target) * (views - 1))
        entropy = torch.special.entr(teacher).sum(dim=-1).mean()
        return loss, self.metrics(teacher.mean(dim=(0, 1)), entropy, context)
