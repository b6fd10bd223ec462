"""What losses share that teach a student the teacher's probabilities of prototypes."""

from typing import Any, Literal

import torch
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.losses.loss import Loss
from ssl_runner.losses.sinkhorn import refuse_sinkhorn, sinkhorn
from ssl_runner.runtime.step_context import StepContext


class Distillation(Loss):
    """Temperatures, and what keeps the teacher's probabilities from collapsing.

    With ``centering=center`` they are ``softmax((t - center) / teacher_temperature)``: the center is a moving average
    of the teacher's outputs, updated after the step (Caron et al. 2021, arXiv:2104.14294, eq. 4). With ``sinkhorn``
    they are the assignment of the batch's rows in which all prototypes get nearly the same total (SwAV,
    arXiv:2006.09882; DINOv2, arXiv:2304.07193, sec. 4). The teacher's temperature rises linearly, per step (the
    authors' code: per epoch), and then stays constant.

    Args:
        student_temperature: Above 0.
        teacher_temperature: The temperature after the warm-up, above 0.
        warmup_teacher_temperature: The temperature at the first step, above 0.
        warmup_share: Share of the run over which the teacher's temperature rises, in [0, 1].
        center_momentum: Share of the center that a step keeps, in [0, 1].
        centering: ``center`` or ``sinkhorn``. Configs of earlier versions lack it and the next one.
        sinkhorn_iterations: At least 1 (DINOv2: 3).
    """

    center: Tensor

    def __init__(
        self,
        student_temperature: float,
        teacher_temperature: float,
        warmup_teacher_temperature: float,
        warmup_share: float,
        center_momentum: float,
        centering: Literal["center", "sinkhorn"] = "center",
        sinkhorn_iterations: int = 3,
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
        if centering not in ("center", "sinkhorn"):
            raise InvalidValue(f"centering={centering!r} is not one of center, sinkhorn")
        refuse_sinkhorn(1.0, sinkhorn_iterations)
        self.student_temperature = student_temperature
        self.first_temperature, self.last_temperature = warmup_teacher_temperature, teacher_temperature
        self.warmup_share, self.center_momentum = warmup_share, center_momentum
        self.centering, self.sinkhorn_iterations = centering, sinkhorn_iterations
        self.register_buffer("center", torch.zeros(()))  # becomes (K,) at the first step, when K is known

    def teacher_temperature(self, progress: float) -> float:
        """The teacher's temperature when this share of the run, in [0, 1), is done."""
        warmed = min(1.0, progress / self.warmup_share) if self.warmup_share > 0 else 1.0
        return self.first_temperature + (self.last_temperature - self.first_temperature) * warmed

    def probabilities(self, target: Tensor, context: StepContext, counted: Tensor | None = None) -> Tensor:
        """The teacher's probabilities (n, K) from its scores (n, K).

        Args:
            counted: bool (n,), rows that take part in balancing; None for all.
        """
        temperature = context.follow(self.teacher_temperature)
        if self.centering == "sinkhorn":
            return sinkhorn(target / temperature, self.sinkhorn_iterations, counted).exp()
        return ((target - self.center) / temperature).softmax(dim=-1)

    @torch.no_grad()
    def metrics(self, usage: Tensor, entropy: Tensor, context: StepContext) -> dict[str, Tensor]:
        """Figures of the teacher's probabilities: from their mean (K,) and from the mean of their entropies."""
        temperature = context.follow(self.teacher_temperature)
        return {
            "teacher_entropy": entropy,  # log K: collapsed to uniform
            "dimensions_in_use": torch.special.entr(usage).sum().exp(),  # 1: collapsed to one dimension
            "teacher_temperature": torch.zeros((), device=usage.device) + temperature,
        }

    @property
    def remembers(self) -> bool:
        return self.centering == "center"

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
