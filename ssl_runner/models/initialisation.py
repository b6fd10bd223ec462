"""The same architecture with newly drawn weights, as the starting point of baselines."""

import copy
from typing import TypeVar

import torch
from torch import nn

from ssl_runner.errors import InvalidValue

Module = TypeVar("Module", bound=nn.Module)


def initialised_anew(module: Module, seed: int) -> Module:
    """A copy in evaluation mode with new initial weights, all of them trainable but fixed positions. The original is
    not changed.

    Each part draws its weights as its class does (``reset_parameters``, or ``init_weights`` for weights that timm's
    models own directly; then ``fix_positions`` for a transformer's fixed ones), and running averages are reset. Buffers
    that no class resets are kept, because pixel statistics are not weights. Weights are drawn on the CPU, so that a GPU
    gets the same ones; this seeds torch's generators. Device and memory format are those of the module.

    Raises:
        ValueError: Some weights belong to a class that has neither method, so trained weights would be left.
    """
    device = next(module.parameters(), torch.empty(0)).device
    fresh = copy.deepcopy(module).cpu().requires_grad_(True).eval()
    fresh.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in fresh.parameters():
            weight.fill_(torch.nan)
        for ways in ("reset_parameters", "init_weights", "fix_positions"):
            for part in fresh.modules():
                if callable(reset := getattr(part, ways, None)):
                    reset()
    left = [name for name, weight in fresh.named_parameters() if weight.isnan().any()]
    if left:
        raise InvalidValue(
            f"{left[0]} of the encoder belongs to a class without reset_parameters, so the baselines cannot draw it "
            "again; choose model/encoder=conv4, resnet18 or vit_tiny, or leave verdict out of eval=[...]"
        )
    return fresh.to(device)
