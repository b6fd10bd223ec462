"""Batch normalisation that sums over a batch in blocks, which makes it as exact in channels_last on a CPU as elsewhere.

In channels_last on a CPU, torch adds up the values of a channel one after the other in float32. With 200,000 of them,
statistics and gradients are off by 2e-5, so that the same images in another order, or on two processes, train a
different network.
"""

from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_runner.models.batch_norm import BatchNorm2d

_SUMS = 16  # sums per channel, which are then added up in float64
_FEW_ROWS = 128  # rows for which one sum is exact enough
_WIDTH = 512  # sums computed in one pass over memory: they fit into the first-level cache


class Blocked(_BatchNorm):
    """In training, sums float32 rows of channels on a CPU in blocks, and the sums of the blocks in float64.

    State, gradients (of any order) and running statistics are those of the parent class, which also handles everything
    else: evaluation, other dtypes, GPUs, the meta device, other memory formats and
    `ssl_runner.models.batch_norm.normalised_by`.
    """

    def forward(self, input: Tensor) -> Tensor:
        within_a_task = getattr(self, "statistics", "module") != "module"
        if within_a_task or not self.training or not _in_rows(input):
            return super().forward(input)
        mean, variance = _moments(input.detach())
        n = input.numel() // input.shape[1]
        inverse = torch.rsqrt(variance + self.eps).float()
        mean, variance = mean.float(), variance.float()
        self.remember(mean, variance * (n / (n - 1)))
        result = _Normalise.apply(input, self.weight, self.bias, mean, inverse, self.eps)
        assert isinstance(result, Tensor)
        return result

    def remember(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running averages towards a batch's mean and unbiased variance (C,)."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        # through data: an earlier, smaller batch that torch normalised saved them for its backward pass, unused
        self.running_mean.data.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.data.lerp_(variance.to(self.running_var.dtype), weight)


class Blocked1d(Blocked, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with sums in blocks."""


class Blocked2d(Blocked, BatchNorm2d):
    """`BatchNorm2d` with sums in blocks."""


class BlockedPlain2d(Blocked, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with sums in blocks."""


_KINDS = {nn.BatchNorm1d: Blocked1d, BatchNorm2d: Blocked2d, nn.BatchNorm2d: BlockedPlain2d}


def sum_in_blocks(module: nn.Module) -> None:
    """Makes the sums of every batch normalisation in a module exact. State and parameter names stay the same.

    Layers of a class that does more than normalise (timm has some) are left unchanged.
    """
    for part in module.modules():
        if type(part) in _KINDS:
            part.__class__ = _KINDS[type(part)]


def _in_rows(input: Tensor) -> bool:
    if input.device.type != "cpu" or input.dtype != torch.float32 or input.ndim not in (2, 4):
        return False
    return input.numel() >= _FEW_ROWS * input.shape[1] and input.is_contiguous(memory_format=_format(input))


def _format(input: Tensor) -> torch.memory_format:
    return torch.channels_last if input.ndim == 4 else torch.contiguous_format


def _rows(input: Tensor) -> Tensor:
    """Views (N, C) or (N, C, H, W) as (N H W, C), without a copy."""
    return input if input.ndim == 2 else input.permute(0, 2, 3, 1).view(-1, input.shape[1])


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    """Splits rows (R, C) into parts (r, k C), so that one pass over memory computes k sums per channel.

    There are few parts, because each pass has a cost, especially when other programs use the cores.
    """
    channels = rows.shape[1]
    side_by_side = gcd(len(rows), max(1, _WIDTH // channels))
    blocks = rows.view(-1, side_by_side * channels)
    passes = -(-_SUMS // side_by_side)
    return blocks.split(max(_FEW_ROWS, -(-len(blocks) // passes)))


def _moments(input: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of each channel, in float64."""
    channels, parts = input.shape[1], _parts(_rows(input))
    moments = [each for part in parts for each in torch.ops.aten.batch_norm_update_stats(part, None, None, 0.0)]
    means, variances = torch.cat(moments).double().view(len(parts), 2, -1, channels).unbind(dim=1)
    sums = means.shape[1]
    share = torch.tensor([part.numel() / input.numel() / sums for part in parts], dtype=means.dtype).repeat_interleave(
        sums
    )
    mean = share @ means.flatten(0, 1)
    square = share @ torch.addcmul(variances, means, means).flatten(0, 1)
    return mean, torch.addcmul(square, mean, mean, value=-1).clamp_min_(0)


def _sums(gradient: Tensor, input: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (C,) of the gradient times the normalised input, and of the gradient."""
    pairs = list(zip(_parts(_rows(gradient)), _parts(_rows(input)), strict=True))
    side_by_side = pairs[0][0].shape[1] // len(mean)
    center, spread = mean.repeat(side_by_side), inverse.repeat(side_by_side)
    only_sums = [False, True, True]
    sums = []
    for up, part in pairs:
        statistics = (None, None, None, center, spread)
        sums += torch.ops.aten.native_batch_norm_backward(up, part, *statistics, True, 0.0, only_sums)[1:]
    along, total = torch.cat(sums).double().view(len(pairs), 2, -1, len(mean)).sum(dim=(0, 2)).float()
    return along, total


class _Normalise(torch.autograd.Function):
    """(input - mean) inverse weight + bias, where mean and inverse are those of the batch and have gradients."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean, inverse)
        ctx.eps = eps
        scale = inverse if weight is None else inverse * weight
        shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
        return _line(input, scale, shift)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # this will be differentiated again, which torch's own backward pass supports
            of_input, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                gradients[0], input, weight, None, None, mean, inverse, True, ctx.eps, [True] * 3
            )
        else:
            gradient = gradients[0].contiguous(memory_format=_format(input))
            of_weight, of_bias = _sums(gradient, input, mean, inverse)
            scale = inverse if weight is None else inverse * weight
            share = scale * (-input.shape[1] / input.numel())
            slope = share * inverse * of_weight
            of_input = _line(input, slope, torch.addcmul(share * of_bias, slope, mean, value=-1))
            _rows(of_input).addcmul_(_rows(gradient), scale)
        affine = (None, None) if weight is None else (of_weight, of_bias)
        return of_input, *affine, None, None, None


def _line(input: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """slope (C,) * input + shift (C,)."""
    result = torch.empty_like(input)  # not a view of the rows, on which ReLU could not work in place
    torch.addcmul(shift, _rows(input), slope, out=_rows(result))
    return result
