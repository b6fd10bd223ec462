"""The same architecture with weights of its own: what baselines start from."""

import copy
from typing import TypeVar

import torch
from torch import nn

from ssl_runner.errors import InvalidValue

Module = TypeVar("Module", bound=nn.Module)


def initialised_anew(module: Module, seed: int) -> Module:
    """A copy in evaluation mode with first weights of its own, all of them to be trained; nothing else changes.

    Each part draws as its class does (``reset_parameters``; ``init_weights`` for what timm's models own themselves),
    and running averages begin anew. Buffers that no class resets stay: pixel statistics are no weights. Drawn on the
    CPU, so that a GPU gets the same weights; seeds torch's generators. Device and memory format are the module's.

    Raises:
        ValueError: Some weights belong to a class that says of neither how to draw them: trained ones would stay.
    """
    device = next(module.parameters(), torch.empty(0)).device
    fresh = copy.deepcopy(module).cpu().requires_grad_(True).eval()
    fresh.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in fresh.parameters():
            weight.fill_(torch.nan)
        for ways in ("reset_parameters", "init_weights"):
            for part in fresh.modules():
                if callable(reset := getattr(part, ways, None)):
                    reset()
    left = [name for name, weight in fresh.named_parameters() if weight.isnan().any()]
    if left:
        raise InvalidValue(
            f"{left[0]} of the encoder belongs to a class without reset_parameters, so it cannot be made anew for the "
            "baselines; choose model/encoder=conv4, resnet18 or vit_tiny, or leave verdict out of eval=[...]"
        )
    return fresh.to(device)
