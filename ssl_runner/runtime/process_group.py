"""The processes of one run, started by torchrun. With one process, everything here is a no-op.

Each process takes its rows of every global batch, with the random draws of these rows. `collectives` holds the
operations that exchange data.
"""

import atexit
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ssl_runner.errors import InvalidValue, ProcessLost
from ssl_runner.runtime import heartbeat, launch_environment

Value = TypeVar("Value")

# seconds to wait for a process that does not answer, for configs of earlier versions, which do not say
TIMEOUT = 600.0

_watch: heartbeat.Watch | None = None
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def init(timeout: float = TIMEOUT) -> None:
    """Join the group of processes, with gloo on CPUs and NCCL between GPUs.

    Args:
        timeout: Seconds to wait for a process that gives no sign of life. A process that does give signs may keep the
            others waiting for torch's default, half an hour, or for this timeout if it is longer, since they wait
            while process 0 evaluates.
    """
    global _watch
    if launch_environment.size() == 1 or dist.is_initialized():
        return
    # The default arguments of its functions keep a reference to the group that exists at import, and optimizers import
    # it indirectly. A referenced group keeps gloo's threads, and a thread that frees a tensor while the interpreter
    # exits aborts the process (pytorch #190489). So it is imported before there is a group.
    import torch.distributed.nn.functional

    patience = max(dist.default_pg_timeout, timedelta(seconds=timeout))
    if torch.cuda.is_available():
        torch.cuda.set_device(launch_environment.local_rank())
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=patience)
    else:
        dist.init_process_group("gloo", timeout=patience)
        atexit.register(_part)  # for exits without `shutdown`: a mistake, Ctrl-C
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*place, is_master=False, wait_for_workers=False)
    _watch = heartbeat.Watch(store, dist.get_rank(), dist.get_world_size(), timeout)
    atexit.register(_stop_watching)


def shutdown() -> None:
    """Leave the group, in all processes at the same point of the run; afterwards each process is on its own."""
    if dist.is_initialized():
        _barrier()
        _stop_watching()
        with _talking():
            dist.barrier()  # the store may end with the first process that leaves
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
    """Record the number of steps done, to report since when a process does not answer."""
    if _watch is not None:
        _watch.step = step


@contextmanager
def single_process() -> Iterator[None]:
    """Inside, this process acts as if it were the only one."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def size() -> int:
    """The number of processes that share a batch."""
    return dist.get_world_size() if dist.is_initialized() and not _alone.get() else 1


def rank() -> int:
    """The number of this process among those that share a batch."""
    return dist.get_rank() if size() > 1 else 0


def rows(n: int, what: str) -> slice:
    """This process's part of n rows of a global batch.

    Args:
        n: Number of rows.
        what: The setting that n comes from, for the message.

    Raises:
        ValueError: The rows cannot be divided evenly.
    """
    if n % size():
        raise InvalidValue(f"{what}={n}, but {size()} processes share a batch evenly; give a multiple of {size()}")
    share = n // size()
    return slice(rank() * share, (rank() + 1) * share)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Inside, process 0 goes first, so that the others find the data that it downloads and decodes."""
    if size() > 1 and rank() > 0:
        _barrier()
    try:
        yield
    finally:
        if size() > 1 and rank() == 0:
            _barrier()


def broadcast(value: Value) -> Value:
    """The value of process 0, in all processes."""
    if size() == 1:
        return value
    own = bytearray(pickle.dumps(value)) if rank() == 0 else bytearray()
    length = torch.tensor(len(own))
    together(dist.broadcast, length, 0)
    data = torch.frombuffer(own, dtype=torch.uint8) if rank() == 0 else torch.empty(int(length), dtype=torch.uint8)
    together(dist.broadcast, data, 0)
    return value if rank() == 0 else pickle.loads(data.numpy().tobytes())


def any_of(flag: bool) -> bool:
    """Whether the flag is true in any process; does not wait for a GPU."""
    if size() == 1:
        return flag
    largest = torch.tensor(int(flag))
    together(dist.all_reduce, largest, dist.ReduceOp.MAX)
    return bool(largest)


def _barrier() -> None:
    together(dist.all_reduce, torch.zeros(()))  # dist.barrier would wait for the GPU


def together(collective: Callable[..., Any], *arguments: Any, on_gpu: bool = False) -> None:
    """Run a collective operation and watch for processes that do not answer; on a GPU, its stream waits for them."""
    finish(begin(collective, *arguments), on_gpu)


def begin(collective: Callable[..., Any], *arguments: Any) -> Any:
    """Begin a collective operation, to be given to `finish`. All processes begin theirs in the same order."""
    with _talking():
        return collective(*arguments, async_op=True)


def finish(work: Any, on_gpu: bool = False) -> None:
    """Wait for an operation and watch for processes that do not answer; on a GPU, its stream waits for them."""
    with _talking():
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
    """Whether the operation completes within `PULSE` seconds."""
    try:
        work.wait(timedelta(seconds=heartbeat.PULSE))
    except RuntimeError as error:
        if "Operation timed out" not in str(error):  # torch's message for our short timeout; gloo's differs
            raise
        return False
    return True


def _end_at_once() -> None:
    """Exit without closing the group, whose threads would wait for the lost process until gloo's own timeout."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no exception class of its own
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        raise ProcessLost(str(error).splitlines()[0]) from None
