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

from ssl_runner.data.dataset import Images, Note
from ssl_runner.data.sources.decode_folder import Findings, decode_dataset
from ssl_runner.data.sources.source import row_digests
from ssl_runner.errors import DataError, printable
from ssl_runner.images.decoding import Damage, Decoding, refuse
from ssl_runner.images.files import ImageFile, Scan
from ssl_runner.runtime.file_lock import locked
from ssl_runner.runtime.no_download import refuse_decoding

FORMAT = 2  # increases when the stored content changes


@dataclass(frozen=True)
class Loaded:
    """Decoded images.

    Attributes:
        images: uint8 (N, C, H, W), of the undamaged files in order.
        content: Hash of the pixels and of what was left out.
        files: The files of these images.
        damaged: The files that were left out, with the reason.
        findings: What was noticed while decoding.
        digests: `row_digests` of the images, or of their files if these are packed.
        notes: Notes on how they are stored.
    """

    images: Images
    content: str
    files: list[ImageFile]
    damaged: list[tuple[Path, Damage]]
    findings: Findings
    digests: np.ndarray
    notes: tuple[Note, ...] = ()


class _Stored(NamedTuple):
    images: Tensor
    content: str
    findings: Findings
    digests: np.ndarray


def cache_folder() -> Path:
    """``SSL_RUNNER_CACHE``, or else ``XDG_CACHE_HOME/ssl_runner``, or else ``~/.cache/ssl_runner``."""
    if own := os.environ.get("SSL_RUNNER_CACHE"):
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ssl_runner"


def load_images(name: str, folder: Path, found: Scan, decoding: Decoding, damaged: str | None = None) -> Loaded:
    """The images of a folder's files in order.

    They are decoded once; afterwards the array is memory-mapped, and private to a process that writes to it. The key of
    an entry consists of the files' names, sizes and times and of the decoding, so a changed, added or removed file is
    noticed and the outdated entry is deleted. If the cache cannot be read or written, the run takes longer but does not
    fail.

    Args:
        name: Name of the entry, one per dataset and selection of files.
        folder: The folder that the files' paths are relative to.
        found: Its files, or a selection of them.
        damaged: ``refuse`` or ``skip`` unreadable files and broken links; None for a dataset without this setting,
            which refuses them.

    Raises:
        DataError: Files are damaged and not skipped (the message names them), all files are damaged, or sizes differ.
    """
    check_damaged(damaged)
    images, content, findings, digests = _stored(name, folder, found.files, decoding)
    bad, broken = left_out(folder, found, findings, damaged)
    whole = [file for place, file in enumerate(found.files) if place not in findings.damaged]
    if bad or broken:
        names = [printable(str(path.relative_to(folder))) for path, _ in (*bad, *broken)]
        content = f"{content} without {short_hash(names)}"
    return Loaded(images, content, whole, [*bad, *broken], findings, digests)


def check_damaged(damaged: str | None) -> None:
    """Raises DataError if this is not a way to treat damaged files."""
    if damaged not in (None, "refuse", "skip"):
        raise DataError(f"dataset.damaged={damaged!r}: expected 'refuse' or 'skip'.")


def left_out(
    folder: Path, found: Scan, findings: Findings, damaged: str | None
) -> tuple[list[tuple[Path, Damage]], list[tuple[Path, Damage]]]:
    """The damaged files and the broken links, each with the reason.

    Raises:
        DataError: There are some, and they are not skipped; or no file is whole.
    """
    broken = [(folder.joinpath(*path), Damage(reason, "fix or delete it")) for path, reason in found.broken]
    bad = [(folder.joinpath(*found.files[place].path), damage) for place, damage in sorted(findings.damaged.items())]
    if damaged != "skip" or len(findings.damaged) == len(found.files):
        refuse([*bad, *broken], len(found.files) + len(broken), may_skip=damaged == "refuse")
    return bad, broken


def _stored(name: str, folder: Path, files: Sequence[ImageFile], decoding: Decoding) -> _Stored:
    """The cache entry of these files, which is written if it does not exist."""
    # decoding depends on Pillow's version; archives may unpack different files with equal times, hence the folder
    owner = short_hash([name, str(folder.resolve()), asdict(decoding), PIL.__version__, FORMAT])
    try:
        entry = cache_folder() / f"{name}-{owner}-{short_hash(files)}"
        stored = _read(entry)
        if stored is None:
            refuse_decoding(name)
            with locked(cache_folder() / f"{name}-{owner}.lock"):
                stored = _read(entry) or _write(entry, f"{name}-{owner}", folder, files, decoding)
        return stored
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        warnings.warn(
            f"decoded images of {name} are not cached: {error}. Set SSL_RUNNER_CACHE to a writable folder with free "
            "space.",
            RuntimeWarning,
            stacklevel=2,
        )
    refuse_decoding(name)
    chunks, findings = decode_dataset([folder.joinpath(*file.path) for file in files], decoding, list)
    images = np.concatenate(chunks) if chunks else np.empty((0, decoding.channels, 1, 1), np.uint8)
    content = hashlib.sha256(images.data).hexdigest()
    return _Stored(torch.from_numpy(images), content, findings, row_digests(images))


def short_hash(content: object) -> str:
    """Hash of plain JSON data, for names of files."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _read(entry: Path) -> _Stored | None:
    """The content of an entry, or None if there is no complete one."""
    try:
        images = np.load(entry / "images.npy", mmap_mode="c")
        found = json.loads((entry / "findings.json").read_text(encoding="utf-8"))
        found["damaged"] = {int(place): Damage(*damage) for place, damage in found["damaged"].items()}
        digests = np.load(entry / "digests.npy")
        return _Stored(torch.from_numpy(images), found.pop("content"), Findings(**found), digests)
    except (FileNotFoundError, NotADirectoryError, EOFError, ValueError, TypeError, KeyError):
        return None


def _write(entry: Path, prefix: str, folder: Path, files: Sequence[ImageFile], decoding: Decoding) -> _Stored:
    """Decodes files into an entry, which appears complete or not at all. The caller holds the lock of its prefix."""
    unfinished = entry.with_name(f"{prefix}.unfinished")  # one name per lock: what a killed process left is overwritten
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        paths = [folder.joinpath(*file.path) for file in files]
        content, findings = decode_dataset(
            paths, decoding, lambda chunks: _write_array(unfinished / "images.npy", chunks, decoding)
        )
        if len(findings.damaged) == len(files):  # an array without rows cannot be mapped
            shutil.rmtree(unfinished)
            empty = np.empty((0, decoding.channels, 1, 1), np.uint8)
            return _Stored(torch.from_numpy(empty), content, findings, row_digests(empty))
        text = json.dumps({"content": content, **asdict(findings)})
        (unfinished / "findings.json").write_text(text, encoding="utf-8")
        for stale in entry.parent.glob(f"{prefix}-*"):  # a process that has mapped one keeps its pages
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
    """Streams the pixels into a .npy file and the hash of each image into another. Returns the hash of all pixels."""
    digest, digests, n, shape = hashlib.sha256(), [np.empty((0, 16), np.uint8)], 0, (decoding.channels, 1, 1)
    # written, not mapped: a full disk raises an error here, but a fatal signal on a mapped page
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
        _write_head(file, (n, *shape))  # of the same length: numpy leaves space for the number of rows
        file.flush()
        os.fsync(file.fileno())  # otherwise a power cut may leave zeros under the final name
    np.save(path.with_name("digests.npy"), np.concatenate(digests))
    return digest.hexdigest()


def _write_head(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
