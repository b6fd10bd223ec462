"""A teacher that is the moving average of its student, and the student's prototypes, which may begin frozen."""

import copy

import torch
from torch import nn

from ssl_runner.errors import InvalidValue
from ssl_runner.models.network import Network
from ssl_runner.runtime.step_context import StepContext


def refuse_momentum(momentum: float, final_momentum: float) -> None:
    """Raises ValueError unless 0 <= momentum <= final_momentum <= 1."""
    if not 0 <= momentum <= final_momentum <= 1:
        raise InvalidValue(
            f"momentum={momentum}, final_momentum={final_momentum}; give numbers in [0, 1], the final one at least "
            "as large"
        )


def refuse_freeze(freeze_share: float, network: Network) -> None:
    """Raises ValueError for a share outside [0, 1), or for a head that has no prototypes to freeze."""
    if not 0 <= freeze_share < 1 or (freeze_share and not hasattr(network.head, "prototypes")):
        raise InvalidValue(
            f"freeze_share={freeze_share}; give a share of the run in [0, 1), or 0 for a head without prototypes "
            "(model/head=dino has some)"
        )


def teacher_of(network: Network) -> Network:
    """A copy of the student without gradients and without drop-path: a teacher computes all blocks (DINO's code)."""
    teacher = copy.deepcopy(network).requires_grad_(False)
    for part in teacher.modules():
        if "drop_prob" in vars(part):  # timm's DropPath
            vars(part)["drop_prob"] = 0.0
    return teacher


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Average the student's parameters into the teacher's. Buffers, such as running statistics, are not averaged."""
    for mean, value in zip(teacher.parameters(), student.parameters(), strict=True):
        mean.lerp_(value, 1 - momentum)


def freeze_prototypes(network: Network, freeze_share: float, context: StepContext) -> None:
    """Keep the prototypes' gradient away for the first share of the run.

    Without a gradient the optimizer does not change them, not even by weight decay.
    """
    if freeze_share:
        network.head.prototypes.requires_grad_(context.reached(freeze_share))  # type: ignore[operator, union-attr]
