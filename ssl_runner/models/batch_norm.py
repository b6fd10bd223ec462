"""Batch normalisation that is correct inside a vectorised inner loop."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

Statistics = Literal["module", "batch", "recorded", "running"]


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with the same state and the same forward pass, except inside `normalised_by`.

    There it is written with ``var_mean`` and ``rsqrt``, because torch's own kernel silently gives wrong second-order
    gradients under ``torch.func.vmap`` (3.6% off, also in float64). This form is exact to 1e-14 but 1.8 times slower,
    so it is used nowhere else.
    """

    statistics: Statistics = "module"
    recorded: tuple[Tensor, Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.statistics == "module":
            return super().forward(input)
        if self.statistics == "running":
            mean, variance = self.running_mean, self.running_var
        elif self.statistics == "recorded":
            assert self.recorded is not None, "nothing was recorded: run the support set first"
            mean, variance = self.recorded
        else:
            variance, mean = torch.var_mean(input, dim=(0, 2, 3), correction=0)
            self.recorded = (mean, variance)
        assert mean is not None and variance is not None
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return input * scale[:, None, None] + shift[:, None, None]


def batch_norms(network: nn.Module) -> list[BatchNorm2d]:
    """All layers of this kind in the network, in its order."""
    return [module for module in network.modules() if isinstance(module, BatchNorm2d)]


@contextmanager
def normalised_by(network: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Makes batch normalisation use the current batch (and record it), the last record, or the running averages.

    It holds inside the block. No buffer is changed, so the same code may run under ``torch.func`` transforms.
    """
    layers = batch_norms(network)
    before: list[Statistics] = [layer.statistics for layer in layers]
    for layer in layers:
        layer.statistics = statistics
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.statistics = old


def forget_records(network: nn.Module) -> None:
    """Drops the recorded statistics: tensors of a finished transform must not outlive it."""
    for layer in batch_norms(network):
        layer.recorded = None
