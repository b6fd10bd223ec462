"""All images of a dataset before they are split, and functions that make a source."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.data.dataset import Images, Note
from ssl_runner.errors import DataError, NotDownloaded

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Source:
    """All images of a dataset.

    Attributes:
        name: The name in messages, such as ``mnist``.
        images: uint8 (N, C, H, W).
        labels: int64 (N,), or None.
        class_names: One name per class; empty without labels.
        class_groups: One group per class, or None.
        content: Hash of the images.
        official: Indices of the published parts (``train``, ``validation``, ``test``); empty if there are none.
        notes: Notes on how it was read.
        decoding: How files were decoded, see `Splits`.
        file_names: One name per image, if each image has its own file.
        digests: `row_digests` of the images, or hashes of their files, if they are known. Stored images have them.
    """

    name: str
    images: Images
    labels: Tensor | None
    class_names: tuple[str, ...]
    class_groups: tuple[str, ...] | None
    content: str
    official: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    decoding: Mapping[str, Any] = field(default_factory=dict)
    file_names: Sequence[str] | None = None
    digests: np.ndarray | None = None


def train_and_test(
    name: str,
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    class_names: Sequence[str],
    size: int | None,
    channels: int | None,
) -> Source:
    """A source in memory from the published train and test parts.

    Args:
        images: Images of train and of test, each uint8 (N, H, W) or (N, C, H, W).
        labels: Labels of train and of test, each (N,) of integers from 0.
        size: Height and width to resize to, or None.
        channels: 1 or 3 to convert to, or None.
    """
    pixels = np.concatenate([part.reshape(len(part), -1, *part.shape[-2:]) for part in images])
    n_train = len(labels[0])
    return Source(
        name=name,
        images=resize(convert(torch.from_numpy(pixels), channels), size),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        class_names=tuple(class_names),
        class_groups=None,
        content=content_hash(pixels, size, channels),
        official={"train": torch.arange(n_train), "test": torch.arange(n_train, len(pixels))},
    )


def blank(
    name: str,
    counts: Mapping[str, int],
    shape: tuple[int, int, int],
    class_names: Sequence[str],
    size: int | None,
    channels: int | None,
) -> Source:
    """A source of black images with the published sizes, without memory, to check a config before a download.

    Classes are balanced, so problems that depend on the last image of a class only appear with the real images.

    Args:
        counts: Number of images of each part.
        shape: (C, H, W) as published.

    Raises:
        DataError: See `convert` and `resize`.
    """
    n = sum(counts.values())
    check_channels(channels)
    check_size(size, n, channels or shape[0])
    side = size or shape[1]
    starts = np.cumsum([0, *counts.values()]).tolist()
    return Source(
        name=name,
        images=torch.zeros(1, dtype=torch.uint8).expand(n, channels or shape[0], side, side),
        labels=torch.arange(n) % len(class_names),
        class_names=tuple(class_names),
        class_groups=None,
        content="blank",
        official={part: torch.arange(start, start + counts[part]) for part, start in zip(counts, starts, strict=False)},
    )


def or_blank(
    read: Callable[[], Source],
    name: str,
    counts: tuple[int, int],
    shape: tuple[int, int, int],
    class_names: Sequence[str],
    size: int | None,
    channels: int | None,
) -> Source:
    """The result of ``read``; inside `no_download`, a `blank` source if it would have to be downloaded first.

    Args:
        counts: Number of images in the train and the test part.
    """
    try:
        return read()
    except NotDownloaded:
        return blank(name, {"train": counts[0], "test": counts[1]}, shape, class_names, size, channels)


def check_channels(channels: int | None) -> None:
    """Raises DataError if channels is not 1, 3 or None."""
    if channels not in (None, 1, 3):
        raise DataError(f"dataset.channels={channels!r}: expected 1 (gray), 3 (RGB) or null (as they are).")


def check_size(size: int | None, n: int, channels: int) -> None:
    """Raises DataError if n images cannot be resized to this size."""
    if size is None:
        return
    if size < 1:
        raise DataError(f"dataset.size={size!r}: expected a number of pixels, or null for the images' own.")
    needed, available = n * channels * size**2, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available:
        raise DataError(
            f"dataset.size={size}: {n:,} images of that size take {needed / 2**30:,.0f} GiB, but this machine has "
            f"{available / 2**30:,.0f} GiB of memory; lower it."
        )


def row_digests(images: np.ndarray) -> np.ndarray:
    """Hashes uint8 (N, 16) of images uint8 (N, C, H, W); equal only for equal images."""
    digests = b"".join(blake2b(row.data, digest_size=16).digest() for row in np.ascontiguousarray(images))
    return np.frombuffer(digests, np.uint8).reshape(-1, 16)


def content_hash(images: np.ndarray, *made_by: object) -> str:
    """Hash of pixels and of what was done to them afterwards."""
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(repr((images.shape, made_by)).encode())
    return digest.hexdigest()


def convert(images: Tensor, channels: int | None) -> Tensor:
    """Images uint8 (N, C, H, W) with 1 channel (ITU-R 601 luma) or 3 (gray repeated); None keeps them as they are.

    Raises:
        DataError: The number of channels is neither 1 nor 3.
    """
    check_channels(channels)
    if channels is None or channels == images.shape[1]:
        return images
    if channels == 3:
        return images.repeat(1, 3, 1, 1)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    parts = [(part * luma).sum(dim=1, keepdim=True).round().byte() for part in images.split(4096)]
    return torch.cat(parts)


def resize(images: Tensor, size: int | None) -> Tensor:
    """Images uint8 (N, C, H, W) with the shorter side resized to ``size`` and the center cropped; None keeps them as
    they are.

    Bicubic, with antialiasing.

    Raises:
        DataError: ``size`` is below 1, or so large that the images do not fit into memory.
    """
    if size is None:
        return images
    check_size(size, len(images), images.shape[1])
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    shape = (round(height * size / min(height, width)), round(width * size / min(height, width)))
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    # nine times faster on uint8 than on floats; it clips between the two passes, as Pillow does
    resized = F.interpolate(images, shape, mode="bicubic", antialias=True)
    return resized[..., top : top + size, left : left + size].contiguous()
