"""Decoded images, kept between runs in the user's cache folder."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from ssl_runner.data.decoding import Decoding, decode_all
from ssl_runner.data.files import ImageFile
from ssl_runner.data.lock import locked
from ssl_runner.data.roots import require_at_hand

FORMAT = 1  # goes up when what is stored changes


def cache_folder() -> Path:
    """``SSL_RUNNER_CACHE``, else ``XDG_CACHE_HOME/ssl_runner``, else ``~/.cache/ssl_runner``."""
    if own := os.environ.get("SSL_RUNNER_CACHE"):
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ssl_runner"


def load_images(name: str, folder: Path, files: Sequence[ImageFile], decoding: Decoding) -> tuple[Tensor, str]:
    """Images uint8 (N, C, H, W) of the files in their order, and the hash of their pixels.

    They are decoded once; from then on the array is memory-mapped, private to the process that writes to it. An entry
    is keyed by the files' names, sizes and times and by the decoding, so a changed, added or removed file is noticed,
    and the entry that it makes useless is deleted. A cache that cannot be read or written costs time, not the run.

    Args:
        name: Of the entry, one per dataset and selection of files.
        folder: What the files' paths are relative to.

    Raises:
        DataError: A file is damaged, or sizes differ.
    """
    # the Pillow version decodes; the folder is in the key because archives unpack different files with equal times
    owner = _short_hash([name, str(folder.resolve()), asdict(decoding), PIL.__version__, FORMAT])
    try:
        entry = cache_folder() / f"{name}-{owner}-{_short_hash(files)}"
        stored = _read(entry)
        if stored is None:
            require_at_hand(name)
            with locked(cache_folder() / f"{name}-{owner}.lock"):
                stored = _read(entry) or _write(entry, f"{name}-{owner}", folder, files, decoding)
        return stored
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        warnings.warn(
            f"decoded images of {name} are not kept: {error}. Set SSL_RUNNER_CACHE to a folder with room to write.",
            RuntimeWarning,
            stacklevel=2,
        )
    require_at_hand(name)
    images = np.concatenate(list(decode_all([folder.joinpath(*file.path) for file in files], decoding)))
    return torch.from_numpy(images), hashlib.sha256(images.data).hexdigest()


def _short_hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _read(entry: Path) -> tuple[Tensor, str] | None:
    """An entry, or None where there is none that is whole."""
    try:
        images = np.load(entry / "images.npy", mmap_mode="c")
        return torch.from_numpy(images), (entry / "sha256").read_text()
    except (FileNotFoundError, NotADirectoryError, EOFError, ValueError):
        return None


def _write(
    entry: Path, prefix: str, folder: Path, files: Sequence[ImageFile], decoding: Decoding
) -> tuple[Tensor, str]:
    """Decodes into an entry, which appears whole or not at all; to be called under the lock of its prefix."""
    unfinished = entry.with_name(f"{prefix}.unfinished")  # one name a lock: what a killed writer left is overwritten
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        digest = _write_array(unfinished / "images.npy", folder, files, decoding)
        (unfinished / "sha256").write_text(digest)
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


def _write_array(path: Path, folder: Path, files: Sequence[ImageFile], decoding: Decoding) -> str:
    """Streams the pixels into a .npy file and gives back their hash."""
    digest = hashlib.sha256()
    # written, not mapped: a full disk is an error here, and a fatal signal on a mapped page
    with path.open("wb") as file:
        for chunk in decode_all([folder.joinpath(*file.path) for file in files], decoding):
            if file.tell() == 0:
                shape = (len(files), *chunk.shape[1:])
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(chunk.data)
            digest.update(chunk.data)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave zeros under the final name
    return digest.hexdigest()
