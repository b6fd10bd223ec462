"""The threads of this process that decode images."""

import os
from concurrent.futures import ThreadPoolExecutor

import threadpoolctl
import torch

MOST = 32

_pool: ThreadPoolExecutor | None = None


def decoding_threads() -> int:
    """One for each core that this process may use, shared with the run's other processes on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def pool() -> ThreadPoolExecutor:
    """The pool that all stores share. Pillow and torch release the interpreter's lock while they decode and resize."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(decoding_threads(), thread_name_prefix="decoding", initializer=_alone)
    return _pool


def _alone() -> None:
    """Let torch use one core in this thread: the others are busy with their own images."""
    torch.get_num_threads()  # sets what a new thread begins with, which the next line then changes
    threadpoolctl.threadpool_limits(1, user_api="openmp")


def _forget() -> None:
    global _pool
    _pool = None  # a forked process has none of its parent's threads


os.register_at_fork(after_in_child=_forget)
