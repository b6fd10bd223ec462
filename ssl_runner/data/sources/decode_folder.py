"""Decodes all image files of a dataset, many of them in processes, a few in threads."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.progress import Progress

from ssl_runner.errors import DataError, printable
from ssl_runner.images.decoding import Damage, Decoded, Decoding, decode_or_damage, pillow_limit_raised, pixels_of
from ssl_runner.images.modes import bits_for
from ssl_runner.images.workers import Workers, workers
from ssl_runner.runtime.console import Console

Made = TypeVar("Made")


CHUNK = 1024  # images decoded together, all of which are in memory
SHARE = 32  # of them that a process decodes at a time


@dataclass
class Findings:
    """What was noticed while files were decoded.

    Attributes:
        damaged: Damage by the index of the file.
        several_frames: Number of files of which only the first frame was used.
        greatest: Largest value of any pixel, before inversion.
        deepest: Largest value in 16-bit files, before conversion; None if there are no such files.
        bits: Number of bits with which 16-bit files were read; None if there are none.
    """

    damaged: dict[int, Damage] = field(default_factory=dict)
    several_frames: int = 0
    greatest: int = 0
    deepest: int | None = None
    bits: int | None = None


def decode_all(files: Sequence[Path], decoding: Decoding, findings: Findings) -> Iterator[np.ndarray]:
    """Yields the pixels (n, C, H, W) of the undamaged files in order, one chunk at a time. It shows its progress.

    Args:
        findings: Filled with what is noticed, especially damaged files, which are left out.

    Raises:
        DataError: Sizes differ and ``decoding.size`` is None.
    """
    first: tuple[Path, tuple[int, ...]] | None = None
    starts = range(0, len(files), CHUNK)
    bar = Progress(console=Console(stderr=True), transient=True, disable=len(starts) == 1)
    threads = ThreadPoolExecutor(min(32, os.cpu_count() or 1))
    with pillow_limit_raised(), bar, threads as pool, workers(decoding, len(files)) as processes:
        for start in bar.track(starts, description=f"decoding {len(files)} images"):
            chunk, whole = files[start : start + CHUNK], []
            for place, found in enumerate(_decoded(chunk, decoding, pool, processes)):
                if isinstance(found, Damage):
                    findings.damaged[start + place] = found
                    continue
                path, shape = chunk[place], found.pixels.shape
                first = first or (path, shape)
                if shape != first[1]:
                    raise DataError(
                        f"{printable(str(path))} has {pixels_of(shape)} pixels, but {printable(str(first[0]))} has "
                        f"{pixels_of(first[1])}; set dataset.size."
                    )
                whole.append(found.pixels)
                findings.several_frames += found.several_frames
                if found.deepest is not None:
                    findings.deepest = max(findings.deepest or 0, found.deepest)
            if whole:
                pixels = np.stack(whole)
                greatest = 255 - int(pixels.min()) if decoding.invert else int(pixels.max())
                findings.greatest = max(findings.greatest, greatest)
                yield pixels


def _decoded(
    files: Sequence[Path], decoding: Decoding, pool: ThreadPoolExecutor, processes: Workers | None
) -> Iterator[Decoded | Damage]:
    """What is found in each file, in order."""
    if processes is None:
        # Pillow releases the interpreter's lock while it decodes and resizes
        yield from pool.map(lambda path: decode_or_damage(path, decoding), files)
        return
    shares = [files[start : start + SHARE] for start in range(0, len(files), SHARE)]
    for found in pool.map(processes.decode, shares):
        yield from found


def decode_dataset(
    files: Sequence[Path], decoding: Decoding, take: Callable[[Iterator[np.ndarray]], Made]
) -> tuple[Made, Findings]:
    """The result of ``take`` for all chunks, and the findings. 16-bit files are read with the bits that all of them
    need.

    Args:
        take: Called a second time, from the start, if these are fewer than 16 bits.
    """
    findings = Findings()
    made = take(decode_all(files, replace(decoding, bits=decoding.bits or 16), findings))
    if findings.deepest is None or decoding.value_range is not None:
        return made, findings
    needed = decoding.bits or bits_for(findings.deepest)
    if needed < 16 and decoding.bits is None:
        findings = Findings()
        made = take(decode_all(files, replace(decoding, bits=needed), findings))
    findings.bits = needed
    return made, findings
