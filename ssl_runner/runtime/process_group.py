"""The processes of one run, which torchrun starts. With one process, nothing here does anything.

Each process takes its rows of every global batch, with the draws that these rows have in it; `collectives` has what
they exchange.
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

# seconds that a process which does not answer is waited for, where a config of an earlier version does not say
TIMEOUT = 600.0

_watch: heartbeat.Watch | None = None
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def init(timeout: float = TIMEOUT) -> None:
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


def shutdown() -> None:
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
def single_process() -> Iterator[None]:
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
def rank_zero_first() -> Iterator[None]:
    """Inside, process 0 goes before the others: what it downloads and decodes, they find."""
    if size() > 1 and rank() > 0:
        _barrier()
    try:
        yield
    finally:
        if size() > 1 and rank() == 0:
            _barrier()


def broadcast(value: Value) -> Value:
    """Process 0's value, for all."""
    if size() == 1:
        return value
    own = bytearray(pickle.dumps(value)) if rank() == 0 else bytearray()
    length = torch.tensor(len(own))
    together(dist.broadcast, length, 0)
    data = torch.frombuffer(own, dtype=torch.uint8) if rank() == 0 else torch.empty(int(length), dtype=torch.uint8)
    together(dist.broadcast, data, 0)
    return value if rank() == 0 else pickle.loads(data.numpy().tobytes())


def any_of(flag: bool) -> bool:
    """Whether it is true of some process; does not wait for a GPU."""
    if size() == 1:
        return flag
    told = torch.tensor(int(flag))
    together(dist.all_reduce, told, dist.ReduceOp.MAX)
    return bool(told)


def _barrier() -> None:
    together(dist.all_reduce, torch.zeros(()))  # dist.barrier would wait for the GPU


def together(collective: Callable[..., Any], *arguments: Any, on_gpu: bool = False) -> None:
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
