"""The device for tensors, and errors when its memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssl_runner.errors import InvalidValue, RunStopped
from ssl_runner.runtime import launch_environment


def choose_device(name: str) -> torch.device:
    """The device with this name.

    Raises:
        ValueError: It is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and launch_environment.size() > 1:
        name = f"cuda:{launch_environment.local_rank()}"
    kind = name.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        usable = ", ".join(kind for kind, present in there.items() if present)
        raise InvalidValue(f"device={name!r} is not available here, expected one of {usable}; set trainer.device=auto")
    try:
        device = torch.device(name)
    except RuntimeError:  # cuda:first
        raise InvalidValue(
            f"device={name!r} is not a device; give {kind}, or {kind} with a number as in {kind}:0"
        ) from None
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidValue(f"device={name!r}, but the GPUs here are numbered 0 to {torch.cuda.device_count() - 1}")
    return device


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Inside, running out of memory stops the run with the remedy.

    Raises:
        RunStopped: Memory ran out.
    """
    try:
        yield
    except (
        MemoryError,
        RuntimeError,
    ) as error:  # torch has its own class on CUDA, but raises a plain RuntimeError on the CPU
        cpu = "DefaultCPUAllocator" in str(error)
        if not (cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)):
            raise
        reason = (str(error).splitlines() or ["nothing left"])[0].rpartition("DefaultCPUAllocator: ")[2]
        raise RunStopped(f"out of memory: {remedy}. Checkpoints already written are intact. ({reason})") from None
