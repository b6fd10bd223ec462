"""Embeds the images of a folder in batches, so that memory does not grow with their number."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ssl_runner.data.sources.folder_layout import PART_FOLDERS
from ssl_runner.errors import InvalidValue, RunStopped, printable
from ssl_runner.images.decoding import Damage, Decoding, decode_or_damage, pillow_limit_raised
from ssl_runner.images.files import scan
from ssl_runner.models.features import evaluating
from ssl_runner.models.network import Encoder
from ssl_runner.runtime.device import enough_memory

AHEAD = 2  # batches that are decoded while one is embedded


@dataclass(frozen=True)
class Batch:
    """Some images of a folder, in the order of their names.

    Attributes:
        names: Paths relative to the folder, with slashes.
        labels: Names of their class folders; None for images in none.
        embeddings: float32 (B, D).
        damaged: Images that cannot be read, with the reason; they are not among the names.
    """

    names: list[str]
    labels: list[str | None]
    embeddings: np.ndarray
    damaged: list[tuple[str, str]] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """Number of files."""
        return len(self.names) + len(self.damaged)


@dataclass(frozen=True)
class Folder:
    """The images below a folder.

    Attributes:
        path: The folder.
        files: Parts of their paths relative to it, in order.
        broken: Links that lead nowhere, with the reason.
        depth: Place of the class folder in a path: 1 if the first is a part of a dataset (train, test).
    """

    path: Path
    files: list[tuple[str, ...]]
    broken: list[tuple[str, str]]
    depth: int

    def label(self, parts: tuple[str, ...]) -> str | None:
        """Name of the class folder of a file, or None."""
        return printable(parts[self.depth]) if len(parts) > self.depth + 1 else None


def images_below(path: Path) -> Folder:
    """All images below a folder.

    Raises:
        ValueError: There is no such folder, or it has no images.
    """
    if not path.is_dir():
        raise InvalidValue(
            f"{path} {'is not a folder' if path.exists() else 'does not exist'}; give a folder of images"
        )
    found = scan(path)
    files = [file.path for file in found.files]
    in_parts = all(parts[0].lower() in PART_FOLDERS and len(parts) > 1 for parts in files)
    broken = [(printable("/".join(parts)), why) for parts, why in found.broken]
    return Folder(path, files, broken, 1 if in_parts else 0)


def embed(
    encoder: Encoder, folder: Folder, batch_size: int, device: torch.device, invert: bool = False
) -> Iterator[Batch]:
    """Embeddings of a folder's images, in its order.

    A thread for each core decodes the next `AHEAD` batches while one is embedded; no more are in memory.

    Args:
        encoder: On the device.
        folder: The images.
        batch_size: Number of files in a batch, the last one excepted.
        device: The encoder's.
        invert: For ink on paper, if the encoder was trained on light strokes on a dark background.
    """
    decoding = decoding_of(encoder, invert)
    starts = range(0, len(folder.files), batch_size)
    with ThreadPoolExecutor(_cores()) as pool, pillow_limit_raised():

        def begin(start: int):
            parts = folder.files[start : start + batch_size]
            paths = [folder.path.joinpath(*each) for each in parts]
            return parts, [pool.submit(decode_or_damage, path, decoding) for path in paths]

        waiting = [begin(start) for start in starts[: AHEAD + 1]]
        try:
            for number in range(len(starts)):
                parts, futures = waiting.pop(0)
                found = [future.result() for future in futures]
                yield _embedded(encoder, folder, parts, found, device)
                if number + AHEAD + 1 < len(starts):
                    waiting.append(begin(starts[number + AHEAD + 1]))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def decoding_of(encoder: Encoder, invert: bool) -> Decoding:
    """How files become what the encoder takes, as in `Encoder.read`."""
    channels, height, _ = encoder.input_shape
    return Decoding(size=height, channels=1 if channels == 1 else 3, invert=invert, **encoder.decoding)


def embed_file(encoder: Encoder, path: Path, device: torch.device, invert: bool) -> np.ndarray:
    """The embedding (D,) of one file.

    Raises:
        ValueError: It cannot be read.
    """
    if not path.is_file():
        raise InvalidValue(f"--neighbours {path}: there is no such file")
    images = encoder.read([path], invert).to(device)
    with evaluating(encoder):
        return encoder(images).flatten(1).float().cpu().numpy()[0]


def _embedded(encoder: Encoder, folder: Folder, parts: Sequence[tuple[str, ...]], found, device) -> Batch:
    readable = [number for number, one in enumerate(found) if not isinstance(one, Damage)]
    names = [printable("/".join(parts[number])) for number in readable]
    damaged = [
        (printable("/".join(each)), one.reason)
        for each, one in zip(parts, found, strict=True)
        if isinstance(one, Damage)
    ]
    labels = [folder.label(parts[number]) for number in readable]
    if not readable:
        return Batch(names, labels, np.empty((0, encoder.out_features), np.float32), damaged)
    images = torch.from_numpy(np.stack([found[number].pixels for number in readable])).to(device)
    with evaluating(encoder), enough_memory(f"{len(images)} images at once do not fit; give a smaller --batch-size"):
        embeddings = encoder(images).flatten(1).float().cpu().numpy()
    if not np.isfinite(embeddings).all():
        worst = names[int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])]
        raise RunStopped(f"the embedding of {worst} is not finite: the encoder's training has diverged; train again")
    return Batch(names, labels, embeddings, damaged)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
