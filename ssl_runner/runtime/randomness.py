"""Counter-based random draws: every number is a function of (seed, stream, step, row).

A resumed run draws the same numbers as an uninterrupted one, and two processes draw the same as one. Logging changes
nothing, because no generator carries state from one step to the next.
"""

import zlib

import numpy as np
import torch

from ssl_runner.errors import InvalidValue


def check_seed(seed: int, name: str = "seed", refusal: type[InvalidValue] = InvalidValue) -> None:
    """Refuse seeds that the generator cannot use.

    Args:
        seed: The seed.
        name: Its name, for the message.
        refusal: The exception class to raise.

    Raises:
        ValueError: The seed is below 0 or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise refusal(f"{name}={seed}; give a number in [0, 2**63)")


def _philox(seed: int, stream: str, step: int) -> np.random.Generator:
    check_seed(seed)
    key = np.array([seed, zlib.crc32(stream.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, step, 0], dtype=np.uint64)))


def uniforms(seed: int, stream: str, step: int, rows: int, columns: int) -> np.ndarray:
    """A table (rows, columns) of float32 in [0, 1), with one row per sample of this step's global batch."""
    return _philox(seed, stream, step).random((rows, columns), dtype=np.float32)


def permutation(seed: int, stream: str, step: int, n: int) -> np.ndarray:
    """A random permutation int64 (n,), the same for every caller."""
    return _philox(seed, stream, step).permutation(n)


def number(seed: int, stream: str, step: int) -> int:
    """A seed in [0, 2**63) for a library that needs its own."""
    return int(_philox(seed, stream, step).integers(2**63))


def generator(seed: int, stream: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for this step."""
    return torch.Generator(device).manual_seed(number(seed, stream, step))
