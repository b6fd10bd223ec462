"""Learning rates and weight decays of parameter groups: their first values, and those of a step.

A group may set, besides what its optimizer takes, ``lr_factor``, which multiplies its learning rate, and
``constant_lr``, with which the schedule leaves it as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ssl_runner.errors import InvalidValue
from ssl_runner.optim.schedules import Schedule, half_cosine

Groups = list[dict[str, Any]]


def begin(optimizer: torch.optim.Optimizer) -> None:
    """Keep each group's first learning rate and weight decay in the group, and so in checkpoints."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"] = group["lr"] * group.get("lr_factor", 1.0)
        if "weight_decay" in group:
            group["initial_weight_decay"] = group["weight_decay"]


def follow(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, max_steps: int) -> None:
    """Set the learning rates of a step and, if the schedule has a ``final_weight_decay``, the weight decays.

    Weight decay goes from its first value to the final one along half a cosine, without warm-up (DINO's code). Groups
    without decay stay without.
    """
    rate, final = schedule(step, max_steps), getattr(schedule, "final_weight_decay", None)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * (1.0 if group.get("constant_lr") else rate)
        if final is not None and group["initial_weight_decay"]:
            group["weight_decay"] = half_cosine(group["initial_weight_decay"], final, step / max_steps)


def figures(optimizer: torch.optim.Optimizer, schedule: Schedule) -> dict[str, float]:
    """The present learning rate, and the weight decay if it changes: those of the group that has the most."""
    found = {"lr": optimizer.param_groups[0]["lr"]}
    if getattr(schedule, "final_weight_decay", None) is not None:
        found["weight_decay"] = max(group["weight_decay"] for group in optimizer.param_groups)
    return found


def with_factors(groups: Sequence[Mapping[str, Any]], factors: Mapping[int, float]) -> Groups:
    """The groups divided by their parameters' factors of the learning rate, the largest factor first.

    Args:
        factors: By ``id`` of the parameter; 1 for one that is not there.
    """
    divided = []
    for group in groups:
        found: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            found.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        divided += [{**group, "params": own, "lr_factor": factor} for factor, own in found.items()]
    return sorted(divided, key=lambda group: -group["lr_factor"])


def layer_factors(depths: Mapping[str, int], last: int, decay: float, patch_embed: float = 1.0) -> dict[str, float]:
    """Factors decay^(last - depth) of the learning rate, by name of the parameter: they fall from the output down
    (BEiT, Bao et al. 2021, arXiv:2106.08254, app. H, for fine-tuning; DINOv2's code for pre-training).

    In a transformer of n blocks, block n with the last layer norm has ``decay``, block 1 ``decay ** n``, and patches,
    positions and tokens have ``decay ** (n + 1)``. Deviation: the last layer norm has 1 in DINOv2's code.

    Args:
        depths: Of each parameter, from 0 for the stem (`ssl_runner.models.depths`).
        last: The depth of what stands on the encoder.
        decay: In (0, 1].
        patch_embed: A further factor for what embeds patches, above 0 (DINOv2: 0.2).

    Raises:
        ValueError: A number is out of range.
    """
    if not 0 < decay <= 1 or not patch_embed > 0:
        raise InvalidValue(
            f"layer_decay={decay}, patch_embed_lr={patch_embed}; give a factor for each layer in (0, 1], and one above "
            "0 for the patches' embedding"
        )
    return {
        name: decay ** (last - depth) * (patch_embed if "patch_embed." in name else 1.0)
        for name, depth in depths.items()
    }
