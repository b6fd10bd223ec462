"""Names for parts of a step, which a profile shows; without one they cost nothing."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

_profiled = False


def span(name: str) -> AbstractContextManager[object]:
    """Inside, everything belongs to the part of this name."""
    return torch.profiler.record_function(name) if _profiled else nullcontext()


@contextmanager
def profiled() -> Iterator[None]:
    """Inside, spans are recorded."""
    global _profiled
    _profiled = True
    try:
        yield
    finally:
        _profiled = False
