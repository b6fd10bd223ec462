"""DINO: self-distillation with no labels."""

from typing import Any

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Embeddings, Loss
from ssl_runner.runtime.step_context import StepContext


class DINO(Loss):
    """Cross-entropy between the teacher's and the student's views (Caron et al. 2021, arXiv:2104.14294, eq. 1 to 4).

    The mean over all pairs of a teacher view and another student view of ``-sum P_t log P_s``, with ``P_t = softmax((t
    - center) / teacher_temperature)`` and ``P_s = softmax(s / student_temperature)``. Centering prevents one dimension
    from dominating, and the low temperature prevents a uniform output. The center is a moving average of the teacher's
    outputs and is updated after the step (eq. 4). The teacher's temperature rises linearly, per step (the authors'
    code: per epoch), and then stays constant.

    Args:
        student_temperature: Above 0.
        teacher_temperature: The temperature after the warm-up, above 0.
        warmup_teacher_temperature: The temperature at the first step, above 0.
        warmup_share: Share of the run over which the teacher's temperature rises, in [0, 1].
        center_momentum: Share of the center that a step keeps, in [0, 1].
    """

    needs = frozenset({"target"})
    views = 2
    center: Tensor

    def __init__(
        self,
        student_temperature: float,
        teacher_temperature: float,
        warmup_teacher_temperature: float,
        warmup_share: float,
        center_momentum: float,
    ) -> None:
        super().__init__()
        temperatures = {
            "student_temperature": student_temperature,
            "teacher_temperature": teacher_temperature,
            "warmup_teacher_temperature": warmup_teacher_temperature,
        }
        for name, value in temperatures.items():
            if not value > 0:
                raise InvalidValue(f"{name}={value}; it divides scores, so give a number above 0")
        for name, value in {"warmup_share": warmup_share, "center_momentum": center_momentum}.items():
            if not 0 <= value <= 1:
                raise InvalidValue(f"{name}={value}; it is a share, so give a number in [0, 1]")
        self.student_temperature = student_temperature
        self.first_temperature, self.last_temperature = warmup_teacher_temperature, teacher_temperature
        self.warmup_share, self.center_momentum = warmup_share, center_momentum
        self.register_buffer("center", torch.zeros(()))  # becomes (K,) at the first step, when K is known

    def teacher_temperature(self, progress: float) -> float:
        """The teacher's temperature when this share of the run, in [0, 1), is done."""
        warmed = min(1.0, progress / self.warmup_share) if self.warmup_share > 0 else 1.0
        return self.first_temperature + (self.last_temperature - self.first_temperature) * warmed

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
        temperature = context.follow(self.teacher_temperature)
        teacher = ((target - self.center) / temperature).softmax(dim=-1)
        student = (online / self.student_temperature).log_softmax(dim=-1)
        cross_entropy = -torch.einsum("gbk,vbk->gv", teacher, student) / images
        same = torch.eye(len(target), views, dtype=torch.bool, device=online.device)
        loss = cross_entropy.masked_fill(same, 0).sum() / (len(target) * (views - 1))
        with torch.no_grad():
            usage = teacher.mean(dim=(0, 1))
            metrics = {
                "teacher_entropy": torch.special.entr(teacher).sum(dim=-1).mean(),  # log K: collapsed to uniform
                "dimensions_in_use": torch.special.entr(usage).sum().exp(),  # 1: collapsed to one dimension
                "teacher_temperature": torch.zeros((), device=online.device) + temperature,
            }
        return loss, metrics

    @torch.no_grad()
    def after_step(self, context: StepContext, target: Tensor) -> None:
        """Moves the center towards the mean of the teacher's outputs (G, B, K) of all processes."""
        mean = target.to(torch.promote_types(target.dtype, torch.float32)).mean(dim=(0, 1)).to(self.center.dtype)
        moved = self.center_momentum * self.center + (1 - self.center_momentum) * mean
        if self.center.shape == moved.shape:
            self.center.copy_(moved)  # in its place, which a recorded step reads
        else:
            self.center = moved

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        saved = state_dict.get(f"{prefix}center")
        if saved is not None:  # the center of a new loss does not have this width yet
            self.center = self.center.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
