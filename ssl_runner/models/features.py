"""Frozen features of images."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from ssl_runner.runtime import progress

BATCH_SIZE = 256


class Images(Protocol):
    """A tensor, or images that are decoded one batch after another."""

    def __len__(self) -> int: ...

    def split(self, split_size: int, /) -> Iterable[Tensor]: ...


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient inside the block. Afterwards, every submodule gets its own mode back, also after
    an error.

    It uses no_grad and not inference_mode, because algorithms that adapt enable gradients inside.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def features(encoder: nn.Module, images: Images, device: torch.device, batch_size: int = BATCH_SIZE) -> Tensor:
    """Features as float32 (N, D) on the device, of images uint8 (N, C, H, W), including the last, smaller batch."""
    with evaluating(encoder):
        parts, done = [], 0
        for batch in images.split(batch_size):
            parts.append(encoder(batch.to(device)).flatten(1).float())
            done += len(batch)
            progress.at(done, len(images), "images")
    return torch.cat(parts)
