"""One run on several processes, which torchrun starts. With one process, nothing here does anything.

Every process takes its rows of each global batch, with the draws that these rows have in it. Losses see the embeddings
of all processes, on each of them: the gather's backward gives the own slice times the number of processes, and
gradients are averaged, so that a parameter's gradient is that of one process with the whole batch.
"""

import atexit
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_runner.errors import InvalidValue, ProcessLost
from ssl_runner.runtime import heartbeat, launch_environment

Value = TypeVar("Value")

# seconds that a process which does not answer is waited for, where a config of an earlier version does not say
TIMEOUT = 600.0

_watch: heartbeat.Watch | None = None
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def join(timeout: float = TIMEOUT) -> None:
    """Meet the other processes; gloo on CPUs, NCCL between GPUs.

    Args:
        timeout: Seconds to wait for a process that gives no sign of life. One that does may keep others waiting for as
            long as torch has it, half an hour, or for this if it is longer: while process 0 evaluates, others wait.
    """
    global _watch
    if launch_environment.size() == 1 or dist.is_initialized():
        return
    # The defaults of its functions hold whatever group there is when it is imported, as optimizers do in passing. A
    # group that is held keeps gloo's threads, and a thread that lets go of a tensor while the interpreter ends aborts
    # the process (pytorch #190489): so it is imported before there is a group.
    import torch.distributed.nn.functional

    patience = max(dist.default_pg_timeout, timedelta(seconds=timeout))
    if torch.cuda.is_available():
        torch.cuda.set_device(launch_environment.local_rank())
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=patience)
    else:
        dist.init_process_group("gloo", timeout=patience)
        atexit.register(_part)  # for ends without `leave`: a mistake, Ctrl-C
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*place, is_master=False, wait_for_workers=False)
    _watch = heartbeat.Watch(store, dist.get_rank(), dist.get_world_size(), timeout)
    atexit.register(_stop_watching)


def leave() -> None:
    """Part, at the same point of the run; afterwards each process is alone."""
    if dist.is_initialized():
        _barrier()
        _stop_watching()
        with _talking():
            dist.barrier()  # the store may go with the first that leaves
        _part()


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _stop_watching() -> None:
    global _watch
    if _watch is not None:
        _watch.stop()
    _watch = None


def begin_step(step: int) -> None:
    """Note how many steps are done, to tell since when a process does not answer."""
    if _watch is not None:
        _watch.step = step


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
        raise InvalidValue(f"{what}={n}, but {size()} processes share a batch evenly; give a multiple of {size()}")
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
    own = bytearray(pickle.dumps(value)) if rank() == 0 else bytearray()
    length = torch.tensor(len(own))
    _together(dist.broadcast, length, 0)
    data = torch.frombuffer(own, dtype=torch.uint8) if rank() == 0 else torch.empty(int(length), dtype=torch.uint8)
    _together(dist.broadcast, data, 0)
    return value if rank() == 0 else pickle.loads(data.numpy().tobytes())


def any_of(flag: bool) -> bool:
    """Whether it is true of some process; does not wait for a GPU."""
    if size() == 1:
        return flag
    told = torch.tensor(int(flag))
    _together(dist.all_reduce, told, dist.ReduceOp.MAX)
    return bool(told)


def gather(rows: Tensor, dim: int = 0) -> Tensor:
    """The rows of all processes in global order, differentiable."""
    return rows if size() == 1 else _Gather.apply(rows, dim)


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
        _together(dist.all_reduce, flat, on_gpu=flat.is_cuda)
        flat /= size()
        for gradient, mean in zip(same, flat.split([gradient.numel() for gradient in same]), strict=True):
            gradient.copy_(mean.view(gradient.shape))


@torch.no_grad()
def average(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means of scalars over processes."""
    if size() == 1:
        return metrics
    values = torch.stack([value.float() for value in metrics.values()])
    _together(dist.all_reduce, values, on_gpu=values.is_cuda)
    return dict(zip(metrics, values / size(), strict=True))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(size())]
        _together(dist.all_gather, parts, rows.contiguous(), on_gpu=rows.is_cuda)
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
    _together(dist.all_reduce, result, on_gpu=result.is_cuda)
    return result


def _barrier() -> None:
    _together(dist.all_reduce, torch.zeros(()))  # dist.barrier would wait for the GPU


def _together(collective: Callable[..., Any], *arguments: Any, on_gpu: bool = False) -> None:
    """Do what all processes do, with an ear for those that do not answer; on a GPU, its stream waits for them."""
    with _talking():
        work = collective(*arguments, async_op=True)
        if _watch is None or on_gpu:
            work.wait()
            return
        _watch.begin()
        try:
            while not _done(work):
                _watch.listen()
        except ProcessLost:
            atexit.register(_end_at_once)
            raise
        finally:
            _watch.end()


def _done(work: Any) -> bool:
    """Whether it is, within a short while."""
    try:
        work.wait(timedelta(seconds=heartbeat.PULSE))
    except RuntimeError as error:
        if "Operation timed out" not in str(error):  # torch's words for our short while, not those of gloo
            raise
        return False
    return True


def _end_at_once() -> None:
    """End the interpreter without the group, whose threads wait for the lost process until gloo's own time is up."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no class of its own
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        raise ProcessLost(str(error).splitlines()[0]) from None
