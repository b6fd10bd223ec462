"""A queue of earlier embeddings, for losses that compare with more than one batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_runner.errors import InvalidValue


class Queue(nn.Module):
    """The last ``size`` rows that were pushed. It starts with random directions, as in MoCo.

    Pointer and content are buffers, so they are saved in the checkpoint and resume bitwise. Nothing waits for the
    device.

    Args:
        size: Number of rows.
        width: Width of a row.
    """

    items: Tensor
    pointer: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if size < 1:
            raise InvalidValue(f"queue_size={size}; give at least 1, or 0 for no queue")
        self.register_buffer("items", F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Replaces the oldest rows by ``rows`` (B, width). If B exceeds the size, only the last rows are kept."""
        rows = rows[-len(self.items) :].to(self.items.dtype)
        indices = (self.pointer + torch.arange(len(rows), device=rows.device)) % len(self.items)
        self.items.index_copy_(0, indices, rows)
        self.pointer.add_(len(rows)).remainder_(len(self.items))


def refuse_queue(size: int) -> None:
    """Raises ValueError for a size below 0."""
    if size < 0:
        raise InvalidValue(f"queue_size={size}; give the number of rows to remember, or 0 for no queue")
