"""What a store remembers of an image, so that it need not be decoded to know it."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from ssl_runner.data.stores.index import RECORD
from ssl_runner.images.decoding import Damage, Decoding, decode_or_damage


def inspect(data: bytes, decoding: Decoding) -> np.ndarray | Damage:
    """The record of an encoded image without its place, or what is wrong with it. It is decoded, which takes long.

    Args:
        data: The content of its file.
        decoding: Its size is not used, since the record describes the original pixels.
    """
    found = decode_or_damage(data, replace(decoding, size=None, bits=decoding.bits or 16))
    if isinstance(found, Damage):
        return found
    record = np.zeros((), RECORD)
    record["length"], record["crc"] = len(data), zlib.crc32(data)
    record["height"], record["width"] = found.pixels.shape[1:]
    record["deepest"] = -1 if found.deepest is None else found.deepest
    record["greatest"], record["frames"] = found.pixels.max(), found.several_frames
    record["mean"], record["square"] = _moments(found.pixels)
    record["digest"] = np.frombuffer(blake2b(data, digest_size=16).digest(), np.uint8)
    return record


def _moments(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    # numpy sums pairwise, so the result does not depend on threads, as a dot product's may
    return flat.mean(axis=1), np.square(flat).mean(axis=1)  # one value stands for all three channels of gray


def mean_and_std(records: np.ndarray, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in [0, 1]; every image counts the same, whatever its size."""
    mean = records["mean"].astype(np.float64).mean(axis=0)
    spread = np.sqrt(np.maximum(records["square"].astype(np.float64).mean(axis=0) - mean**2, 0))
    return mean[:channels].tolist(), spread[:channels].tolist()


def same(digests: Sequence[np.ndarray] | np.ndarray) -> bool:
    """Whether there are at least two images, all equal."""
    return len(digests) > 1 and bool((np.asarray(digests) == digests[0]).all())
