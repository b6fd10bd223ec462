"""Where half precision would spoil a metric: softmaxes of cosines over a small temperature, inverses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def at_least_float32(device: torch.device) -> Iterator[None]:
    """Inside, autocast leaves products alone; their factors have to be `widened` themselves."""
    with torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False):
        yield


def widened(values: Tensor) -> Tensor:
    """In float32, or float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
