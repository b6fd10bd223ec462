"""Keeps float32 where half precision would spoil a result: inverses, and softmaxes with a small temperature."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def at_least_float32(device: torch.device) -> Iterator[None]:
    """Turns autocast off for matrix products inside the block; their factors still have to be `widened`."""
    with torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False):
        yield


def widened(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they already are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
