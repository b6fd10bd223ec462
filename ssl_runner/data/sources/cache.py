"""Decoded images, kept between runs in the user's cache folder."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

from ssl_runner.data.sources.decode_folder import Findings, decode_dataset
from ssl_runner.data.sources.source import row_digests
from ssl_runner.errors import DataError, printable
from ssl_runner.images.decoding import Damage, Decoding, refuse
from ssl_runner.images.files import ImageFile, Scan
from ssl_runner.runtime.file_lock import locked
from ssl_runner.runtime.no_download import refuse_download

FORMAT = 2  # goes up when what is stored changes


@dataclass(frozen=True)
class Loaded:
    """Decoded images.

    Attributes:
        images: uint8 (N, C, H, W), of the whole files in their order.
        content: Hash of the pixels, and of what was left out.
        files: Those that the images are of.
        damaged: Those that were left out, with the reason.
        findings: What was met on the way.
        digests: `row_digests` of the images.
    """

    images: Tensor
    content: str
    files: list[ImageFile]
    damaged: list[tuple[Path, Damage]]
    findings: Findings
    digests: np.ndarray


class _Stored(NamedTuple):
    images: Tensor
    content: str
    findings: Findings
    digests: np.ndarray


def cache_folder() -> Path:
    """``SSL_RUNNER_CACHE``, else ``XDG_CACHE_HOME/ssl_runner``, else ``~/.cache/ssl_runner``."""
    if own := os.environ.get("SSL_RUNNER_CACHE"):
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ssl_runner"


def load_images(name: str, folder: Path, found: Scan, decoding: Decoding, damaged: str | None = None) -> Loaded:
    """The images of a folder's files in their order.

    They are decoded once; from then on the array is memory-mapped, private to the process that writes to it. An entry
    is keyed by the files' names, sizes and times and by the decoding, so a changed, added or removed file is noticed,
    and the entry that it makes useless is deleted. A cache that cannot be read or written costs time, not the run.

    Args:
        name: Of the entry, one per dataset and selection of files.
        folder: What the files' paths are relative to.
        found: Its files, or a selection of them.
        damaged: ``refuse`` or ``skip`` files that cannot be read and links that lead nowhere; None for a dataset that
            has no such key and refuses.

    Raises:
        DataError: Files are damaged and not to be skipped (names them), no file is whole, or sizes differ.
    """
    if damaged not in (None, "refuse", "skip"):
        raise DataError(f"dataset.damaged={damaged!r}: expected 'refuse' or 'skip'.")
    images, content, findings, digests = _stored(name, folder, found.files, decoding)
    broken = [(folder.joinpath(*path), Damage(reason, "mend or delete it")) for path, reason in found.broken]
    bad = [(folder.joinpath(*found.files[place].path), damage) for place, damage in sorted(findings.damaged.items())]
    if damaged != "skip" or len(findings.damaged) == len(found.files):
        refuse([*bad, *broken], len(found.files) + len(broken), may_skip=damaged == "refuse")
    whole = [file for place, file in enumerate(found.files) if place not in findings.damaged]
    if bad or broken:
        left_out = [printable(str(path.relative_to(folder))) for path, _ in (*bad, *broken)]
        content = f"{content} without {_short_hash(left_out)}"
    return Loaded(images, content, whole, [*bad, *broken], findings, digests)


def _stored(name: str, folder: Path, files: Sequence[ImageFile], decoding: Decoding) -> _Stored:
    """What is in the cache for these files, put there if it was not."""
    # the Pillow version decodes; the folder is in the key because archives unpack different files with equal times
    owner = _short_hash([name, str(folder.resolve()), asdict(decoding), PIL.__version__, FORMAT])
    try:
        entry = cache_folder() / f"{name}-{owner}-{_short_hash(files)}"
        stored = _read(entry)
        if stored is None:
            refuse_download(name)
            with locked(cache_folder() / f"{name}-{owner}.lock"):
                stored = _read(entry) or _write(entry, f"{name}-{owner}", folder, files, decoding)
        return stored
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        warnings.warn(
            f"decoded images of {name} are not kept: {error}. Set SSL_RUNNER_CACHE to a folder with room to write.",
            RuntimeWarning,
            stacklevel=2,
        )
    refuse_download(name)
    chunks, findings = decode_dataset([folder.joinpath(*file.path) for file in files], decoding, list)
    images = np.concatenate(chunks) if chunks else np.empty((0, decoding.channels, 1, 1), np.uint8)
    content = hashlib.sha256(images.data).hexdigest()
    return _Stored(torch.from_numpy(images), content, findings, row_digests(images))


def _short_hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _read(entry: Path) -> _Stored | None:
    """An entry, or None where there is none that is whole."""
    try:
        images = np.load(entry / "images.npy", mmap_mode="c")
        told = json.loads((entry / "findings.json").read_text(encoding="utf-8"))
        told["damaged"] = {int(place): Damage(*damage) for place, damage in told["damaged"].items()}
        digests = np.load(entry / "digests.npy")
        return _Stored(torch.from_numpy(images), told.pop("content"), Findings(**told), digests)
    except (FileNotFoundError, NotADirectoryError, EOFError, ValueError, TypeError, KeyError):
        return None


def _write(entry: Path, prefix: str, folder: Path, files: Sequence[ImageFile], decoding: Decoding) -> _Stored:
    """Decodes into an entry, which appears whole or not at all; to be called under the lock of its prefix."""
    unfinished = entry.with_name(f"{prefix}.unfinished")  # one name a lock: what a killed writer left is overwritten
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        paths = [folder.joinpath(*file.path) for file in files]
        content, findings = decode_dataset(
            paths, decoding, lambda chunks: _write_array(unfinished / "images.npy", chunks, decoding)
        )
        if len(findings.damaged) == len(files):  # an array of no rows cannot be mapped
            shutil.rmtree(unfinished)
            empty = np.empty((0, decoding.channels, 1, 1), np.uint8)
            return _Stored(torch.from_numpy(empty), content, findings, row_digests(empty))
        told = json.dumps({"content": content, **asdict(findings)})
        (unfinished / "findings.json").write_text(told, encoding="utf-8")
        for stale in entry.parent.glob(f"{prefix}-*"):  # who has mapped one keeps its pages
            shutil.rmtree(stale, ignore_errors=True)
        unfinished.rename(entry)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    stored = _read(entry)
    if stored is None:
        raise OSError(f"{entry} cannot be read back")
    return stored


def _write_array(path: Path, chunks: Iterator[np.ndarray], decoding: Decoding) -> str:
    """Streams the pixels into a .npy file, the hash of each image into one beside it, and gives back that of all."""
    digest, digests, n, shape = hashlib.sha256(), [np.empty((0, 16), np.uint8)], 0, (decoding.channels, 1, 1)
    # written, not mapped: a full disk is an error here, and a fatal signal on a mapped page
    with path.open("wb") as file:
        for chunk in chunks:
            if n == 0:
                shape = chunk.shape[1:]
                _write_head(file, (0, *shape))
            file.write(chunk.data)
            digest.update(chunk.data)
            digests.append(row_digests(chunk))
            n += len(chunk)
        file.seek(0)
        _write_head(file, (n, *shape))  # as long as before: numpy leaves room for the number of rows
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave zeros under the final name
    np.save(path.with_name("digests.npy"), np.concatenate(digests))
    return digest.hexdigest()


def _write_head(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
