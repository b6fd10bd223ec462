"""One run on several processes, which torchrun starts. With one process, nothing here does anything.

Every process takes its rows of each global batch, with the draws that these rows have in it. Losses see the embeddings
of all processes, on each of them: the gather's backward gives the own slice times the number of processes, and
gradients are averaged, so that a parameter's gradient is that of one process with the whole batch.
"""

import atexit
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_runner import launch
from ssl_runner.interruption import ProcessLost
from ssl_runner.losses.loss import Embeddings

Value = TypeVar("Value")

_alone: ContextVar[bool] = ContextVar("alone", default=False)


def join() -> None:
    """Meet the other processes; gloo on CPUs, NCCL between GPUs."""
    if launch.size() == 1 or dist.is_initialized():
        return
    # The defaults of its functions hold whatever group there is when it is imported, as optimizers do in passing. A
    # group that is held keeps gloo's threads, and a thread that lets go of a tensor while the interpreter ends aborts
    # the process (pytorch #190489): so it is imported before there is a group.
    import torch.distributed.nn.functional

    if torch.cuda.is_available():
        torch.cuda.set_device(launch.local_rank())
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")
        atexit.register(_part)  # for ends without `leave`: a mistake, Ctrl-C


def leave() -> None:
    """Part, at the same point of the run; afterwards each process is alone."""
    if dist.is_initialized():
        with _talking():
            dist.barrier()
        _part()


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process does everything itself."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def size() -> int:
    """Processes that share a batch."""
    return dist.get_world_size() if dist.is_initialized() and not _alone.get() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if size() > 1 else 0


def rows(n: int, what: str) -> slice:
    """This process's part of n rows of a global batch.

    Args:
        n: Rows.
        what: The setting that n comes from, for the message.

    Raises:
        ValueError: They cannot be shared out evenly.
    """
    if n % size():
        raise ValueError(f"{what}={n}, but {size()} processes share a batch evenly; give a multiple of {size()}")
    share = n // size()
    return slice(rank() * share, (rank() + 1) * share)


@contextmanager
def first() -> Iterator[None]:
    """Inside, process 0 goes before the others: what it downloads and decodes, they find."""
    if size() > 1 and rank() > 0:
        _barrier()
    try:
        yield
    finally:
        if size() > 1 and rank() == 0:
            _barrier()


def from_first(value: Value) -> Value:
    """Process 0's value, for all."""
    if size() == 1:
        return value
    box: list[Any] = [value]
    with _talking():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def any_of(flag: bool) -> bool:
    """Whether it is true of some process; does not wait for a GPU."""
    if size() == 1:
        return flag
    told = torch.tensor(int(flag))
    with _talking():
        dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


def gather(rows: Tensor, dim: int = 0) -> Tensor:
    """The rows of all processes in global order, differentiable."""
    return rows if size() == 1 else _Gather.apply(rows, dim)


def gathered(embeddings: Embeddings) -> Embeddings:
    """What a loss sees of all processes; the memory is the same on each."""
    if size() == 1:
        return embeddings
    target, labels = embeddings.target, embeddings.labels
    return replace(
        embeddings,
        online=gather(embeddings.online, 1),
        target=None if target is None else gather(target, 1),
        labels=None if labels is None else gather(labels),
    )


def total(values: Tensor) -> Tensor:
    """Sum over processes of tensors of one shape, differentiable."""
    return values if size() == 1 else _Total.apply(values)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Put the mean over processes into every gradient; one message for each kind of number."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        same = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in same])
        with _talking():
            dist.all_reduce(flat)
        flat /= size()
        for gradient, mean in zip(same, flat.split([gradient.numel() for gradient in same]), strict=True):
            gradient.copy_(mean.view(gradient.shape))


@torch.no_grad()
def average(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means of scalars over processes."""
    if size() == 1:
        return metrics
    values = torch.stack([value.float() for value in metrics.values()])
    with _talking():
        dist.all_reduce(values)
    return dict(zip(metrics, values / size(), strict=True))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(size())]
        with _talking():
            dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # all processes have the same loss, so nothing need be exchanged: the mean over them takes the factor out again
        return gradients[0].chunk(size(), ctx.dim)[rank()] * size(), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(values: Tensor) -> Tensor:
    result = values.clone(memory_format=torch.contiguous_format)
    with _talking():
        dist.all_reduce(result)
    return result


def _barrier() -> None:
    with _talking():
        dist.all_reduce(torch.zeros(()))  # dist.barrier would wait for the GPU


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no class of its own
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        raise ProcessLost(str(error).splitlines()[0]) from None
