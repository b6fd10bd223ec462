"""Exchange between processes that share a batch: embeddings, sums, gradients. With one process, everything here is a
no-op.

In every process, the loss sees the embeddings of all processes. The backward pass of `gather` returns the process's own
slice times the number of processes, and gradients are averaged, so a parameter's gradient equals that of one process
with the whole batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


@contextmanager
def averaged_gradients(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Inside, a backward pass replaces every gradient by its mean over processes.

    Gradients are sent in messages of about 8 MiB as soon as they are computed, while others still are: the backward
    pass reaches the last parameters first. Sharded ones are left to `fully_shard`, which has averaged them.
    """
    if process_group.size() == 1:
        yield
        return
    messages = _Messages([each for each in parameters if each.requires_grad and not is_shard(each)])
    hooks = [parameter.register_post_accumulate_grad_hook(messages.ready) for parameter in messages.parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    messages.finish()


@torch.no_grad()
def average(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of scalars over processes."""
    if process_group.size() == 1:
        return metrics
    values = torch.stack([value.float() for value in metrics.values()])
    process_group.together(dist.all_reduce, values, on_gpu=values.is_cuda)
    return dict(zip(metrics, values / process_group.size(), strict=True))


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor's rows are divided among processes (`ssl_runner.training.sharding`)."""
    return hasattr(tensor, "to_local")  # a DTensor, whose package takes long to import


def own_rows(tensor: Tensor) -> Tensor:
    """The rows of a sharded tensor that this process holds, in the same memory; any other tensor as it is."""
    return tensor.to_local() if is_shard(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """All rows of a sharded tensor; any other tensor as it is."""
    if not is_shard(tensor):
        return tensor
    rows = own_rows(tensor)
    padded = rows.new_zeros(-(-len(tensor) // process_group.size()), *tensor.shape[1:])
    padded[: len(rows)] = rows
    return gather(padded)[: len(tensor)]


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of each tensor, with all rows of sharded ones."""
    own = torch.stack(torch._foreach_norm([own_rows(tensor) for tensor in tensors]))
    shards = [is_shard(tensor) for tensor in tensors]
    if not any(shards):
        return own
    summed = total(own.double().square()).sqrt().to(own.dtype)  # one message
    return torch.where(torch.tensor(shards, device=own.device), summed, own)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors together, with all rows of sharded ones."""
    if not any(is_shard(tensor) for tensor in tensors):
        return torch.nn.utils.get_total_norm(tensors)
    return torch.linalg.vector_norm(norms(tensors))


MESSAGE = 8 * 2**20  # bytes: long enough for the full rate of a network, short enough to leave early


@dataclass
class _Message:
    """Gradients that are sent together; ``missing`` of them are not computed yet."""

    parameters: list[Tensor]
    missing: int
    flat: Tensor | None = None
    work: Any = None


class _Messages:
    """The gradients of one backward pass on their way.

    Messages leave in the same order in every process, whatever is ready first.

    Attributes:
        parts: The message of each parameter.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self.all: list[_Message] = []
        self.parts: dict[Tensor, _Message] = {}
        self.sent = 0
        for parameter in reversed(parameters):
            last = self.all[-1].parameters if self.all else []
            size = sum(one.nbytes for one in last)
            if not last or size >= MESSAGE or (last[0].dtype, last[0].device) != (parameter.dtype, parameter.device):
                self.all.append(_Message([], 0))
            self.all[-1].parameters.append(parameter)
            self.all[-1].missing += 1
            self.parts[parameter] = self.all[-1]

    def ready(self, parameter: Tensor) -> None:
        """A parameter's gradient is computed."""
        self.parts[parameter].missing -= 1
        while self.sent < len(self.all) and not self.all[self.sent].missing:
            self._send()

    def finish(self) -> None:
        """Send what is left, because some parameters have no gradient, and wait for the means."""
        while self.sent < len(self.all):
            self._send()
        for message in self.all:
            if message.flat is None:
                continue
            process_group.finish(message.work, message.flat.is_cuda)
            message.flat /= process_group.size()
            gradients = [parameter.grad for parameter in message.parameters if parameter.grad is not None]
            means = message.flat.split([gradient.numel() for gradient in gradients])
            for gradient, mean in zip(gradients, means, strict=True):
                gradient.copy_(mean.view(gradient.shape))

    def _send(self) -> None:
        message = self.all[self.sent]
        self.sent += 1
        gradients = [parameter.grad for parameter in message.parameters if parameter.grad is not None]
        if gradients:
            message.flat = torch.cat([gradient.flatten() for gradient in gradients])
            message.work = process_group.begin(dist.all_reduce, message.flat)


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
