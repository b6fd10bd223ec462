"""Sends the views of a batch through a network, all at once or in pieces of the batch."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_runner.errors import InvalidValue
from ssl_runner.models.synchronised import in_turn
from ssl_runner.runtime.process_group import rows, size

Crops = tuple[Tensor, ...]


def embed_views(module: nn.Module, crops: Crops, pieces: int = 1, checkpointed: bool = False) -> Tensor:
    """Embeddings (V, B, D) of crops, one (v, B, C, H, W) per resolution: a forward pass for each resolution and piece.

    Args:
        pieces: Pieces of the batch of all processes, each normalised separately. Running statistics see them in order.
        checkpointed: Whether only one piece's activations are held at a time (Chen et al. 2016, arXiv:1604.06174). The
            backward pass then computes them again, with the same dropout and without changing running statistics.

    Raises:
        ValueError: The batch cannot be split into that many equal pieces.
    """
    if pieces == 1:
        return _embed(module, crops)
    n = crops[0].shape[1]
    own = pieces // size()
    if n % own:
        raise InvalidValue(
            f"batches of {n * size()} images cannot be cut into {pieces} equal pieces; choose algorithm.encode_chunks "
            "(or batch_norm_groups) so that it divides batching.batch_size"
        )
    embedded = []
    with in_turn(module):
        for piece in zip(*(part.split(n // own, dim=1) for part in crops), strict=True):
            if checkpointed and torch.is_grad_enabled():
                contexts = lambda: (nullcontext(), _own_buffers(module))  # noqa: E731
                done = checkpoint(_embed, module, piece, use_reentrant=False, context_fn=contexts)
                assert isinstance(done, Tensor)
                embedded.append(done)
            else:
                embedded.append(_embed(module, piece))
    return torch.cat(embedded, dim=1)


def refuse_pieces(name: str, pieces: int) -> None:
    """Raises ValueError for less than one piece, or for pieces that the processes cannot share evenly."""
    if pieces < 1:
        raise InvalidValue(f"{name}={pieces}; give at least 1, which is the whole batch at once")
    if pieces > 1:
        rows(pieces, name)


def _embed(module: nn.Module, crops: Crops) -> Tensor:
    parts = [module(part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in crops]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def _own_buffers(module: nn.Module) -> Iterator[None]:
    """Replaces the buffers by copies inside the block, so that a repeated forward pass leaves the originals alone."""
    held = [(part, dict(part._buffers)) for part in module.modules() if part._buffers]
    for part, buffers in held:
        part._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for part, buffers in held:
            part._buffers.update(buffers)
