"""Which images and episodes were answered rightly, which paired comparisons of encoders need."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_answers: ContextVar[dict[str, Tensor] | None] = ContextVar("answers", default=None)


@contextmanager
def kept() -> Iterator[dict[str, Tensor]]:
    """Inside, evaluators leave their single answers in the dictionary that this yields.

    The values are on the CPU: bool (M,) for M test images, or float64 (T,), the accuracies of T episodes. The keys are
    those of the scores without ``/top1``.
    """
    found: dict[str, Tensor] = {}
    token = _answers.set(found)
    try:
        yield found
    finally:
        _answers.reset(token)


def keep(key: str, answers: Tensor) -> None:
    """Called by an evaluator with what its ``key/top1`` is the mean of; does nothing outside `kept`."""
    found = _answers.get()
    if found is not None:
        found[key.removesuffix("/top1")] = answers.detach().cpu()
