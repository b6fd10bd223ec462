"""Exchange between processes that share a batch: embeddings, sums, gradients. With one process, everything here is a
no-op.

In every process, the loss sees the embeddings of all processes. The backward pass of `gather` returns the process's own
slice times the number of processes, and gradients are averaged, so a parameter's gradient equals that of one process
with the whole batch.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_runner.runtime import process_group


def gather(rows: Tensor, dim: int = 0) -> Tensor:
    """The rows of all processes in global order, differentiable."""
    return rows if process_group.size() == 1 else _Gather.apply(rows, dim)


def total(values: Tensor) -> Tensor:
    """The sum over processes of tensors with the same shape, differentiable."""
    return values if process_group.size() == 1 else _Total.apply(values)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over processes, with one message per dtype."""
    if process_group.size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        same = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in same])
        process_group.together(dist.all_reduce, flat, on_gpu=flat.is_cuda)
        flat /= process_group.size()
        for gradient, mean in zip(same, flat.split([gradient.numel() for gradient in same]), strict=True):
            gradient.copy_(mean.view(gradient.shape))


@torch.no_grad()
def average(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of scalars over processes."""
    if process_group.size() == 1:
        return metrics
    values = torch.stack([value.float() for value in metrics.values()])
    process_group.together(dist.all_reduce, values, on_gpu=values.is_cuda)
    return dict(zip(metrics, values / process_group.size(), strict=True))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(process_group.size())]
        process_group.together(dist.all_gather, parts, rows.contiguous(), on_gpu=rows.is_cuda)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # all processes have the same loss, so nothing is exchanged: averaging the gradients removes the factor again
        return gradients[0].chunk(process_group.size(), ctx.dim)[process_group.rank()] * process_group.size(), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(values: Tensor) -> Tensor:
    result = values.clone(memory_format=torch.contiguous_format)
    process_group.together(dist.all_reduce, result, on_gpu=result.is_cuda)
    return result
