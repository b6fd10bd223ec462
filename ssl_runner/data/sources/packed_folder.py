"""A folder's image files in a pack, which holds them as they are."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ssl_runner.data.dataset import Note
from ssl_runner.data.sources.cache import Loaded, cache_folder, check_damaged, left_out, short_hash
from ssl_runner.data.sources.decode_folder import Findings
from ssl_runner.data.stores.index import Index, read_index
from ssl_runner.data.stores.packing import Known, append, data_file, text_of
from ssl_runner.data.stores.pending import left_by
from ssl_runner.data.stores.store import ImageStore, LocalFiles
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.errors import DataError, printable
from ssl_runner.images.decoding import Damage, Decoding
from ssl_runner.images.files import ImageFile, Scan
from ssl_runner.images.nvjpeg import Decoder
from ssl_runner.runtime.file_lock import locked
from ssl_runner.runtime.no_download import refuse_decoding


@dataclass
class _Found:
    """Where a folder's files are in its pack: the row of each, -1 for damaged ones, and the files that it lacks."""

    rows: np.ndarray
    damaged: dict[int, Damage]
    lacking: list[ImageFile]
    changed: int


def pack_folder(folder: Path, found: Scan, decoding: Decoding, damaged: str, decoder: Decoder = "pillow") -> Loaded:
    """Like `load_images`, from a pack in the cache folder.

    The pack belongs to the folder, whatever selection of its files is used and to whatever size they are resized. New
    and changed files are appended when they are noticed, by their names, sizes and times.

    Raises:
        DataError: The pack is damaged or cannot be written, files are damaged and not skipped, or a setting does not
            suit packs.
    """
    check_damaged(damaged)
    if decoding.size is None:
        raise DataError("dataset.storage=packed needs dataset.size: images of any size are cut and resized to it.")
    if decoder == "nvjpeg" and decoding.value_range is not None:
        raise DataError(
            f"dataset.decoder=nvjpeg does not change values, but dataset.value_range={list(decoding.value_range)}; set "
            "one of them to its default: dataset.decoder=pillow or dataset.value_range=null."
        )
    pack = _place(folder, decoding)
    index, where = _complete(pack, folder, found.files, decoding)
    whole = [place for place in range(len(found.files)) if place not in where.damaged]
    rows = where.rows[whole]
    findings = _findings(index, rows, where.damaged, decoding, found.files)
    digests = np.ascontiguousarray(index.records["digest"][rows])
    content = hashlib.sha256(digests.tobytes() + repr(asdict(decoding)).encode()).hexdigest()
    bad, broken = left_out(folder, found, findings, damaged)
    if bad or broken:
        names = [printable(str(path.relative_to(folder))) for path, _ in (*bad, *broken)]
        content = f"{content} without {short_hash(names)}"

    def name(row: int) -> str:
        return printable(os.fsdecode(os.path.join(os.fsencode(folder), index.text(row))))

    reader = LocalFiles([data_file(pack, number) for number in range(len(index.extra["data"]))])
    store = ImageStore(index, reader, name, f"delete {printable(str(pack))}, and the images are packed again")
    images = StoredImages(store, rows, replace(decoding, bits=findings.bits), left_by(decoder, index))
    files = [found.files[place] for place in whole]
    return Loaded(images, content, files, [*bad, *broken], findings, digests, _notes(index, rows, where, pack))


def _place(folder: Path, decoding: Decoding) -> Path:
    # the statistics of pixels depend on these settings
    made_by = [os.fsdecode(folder.resolve()), decoding.channels, decoding.background, decoding.value_range]
    return cache_folder() / f"packed-{short_hash(made_by)}"


def _complete(pack: Path, folder: Path, files: Sequence[ImageFile], decoding: Decoding) -> tuple[Index, _Found]:
    """The index of a pack that has all these files; those that it lacks are appended."""
    index = read_index(pack)
    found = _look_up(index, files, decoding)
    if index is not None and not found.lacking:
        return index, found
    refuse_decoding("image_folder")
    try:
        with locked(pack.with_suffix(".lock")):
            found = _look_up(read_index(pack), files, decoding)  # another process may have just done it
            changed = found.changed
            if found.lacking:
                append(pack, folder, found.lacking, decoding)
            index = read_index(pack)
    except OSError as error:
        raise DataError(
            f"{printable(str(pack))} cannot be written ({error}); set SSL_RUNNER_CACHE to a writable folder, or "
            "dataset.storage=memory."
        ) from None
    found = _look_up(index, files, decoding)
    if index is None or found.lacking:
        raise DataError(
            f"files in {printable(str(folder))} change while they are packed; start again when they do not."
        )
    return index, replace(found, changed=changed)


def _look_up(index: Index | None, files: Sequence[ImageFile], decoding: Decoding) -> _Found:
    rows, damaged, lacking, changed = np.full(len(files), -1), {}, [], 0
    # of a file that has changed, the last record counts
    known = {} if index is None else {text: row for row, text in enumerate(index.texts())}
    sizes, times = ([], []) if index is None else (index.records[key].tolist() for key in ("size", "changed"))
    refused = {} if index is None else index.extra["damaged"]
    for place, file in enumerate(files):
        text = text_of(file)
        row, bad = known.get(text), refused.get(os.fsdecode(text)) if refused else None
        if bad is not None and Known(*bad)[:3] == (file.size, file.changed, decoding.max_megapixels):
            damaged[place] = Damage(*bad[3:])
        elif row is not None and (sizes[row], times[row]) == (file.size, file.changed):
            rows[place] = row
        else:
            changed += row is not None
            lacking.append(file)
    return _Found(rows, damaged, lacking, changed)


def _findings(
    index: Index, rows: np.ndarray, damaged: dict[int, Damage], decoding: Decoding, files: Sequence[ImageFile]
) -> Findings:
    records = index.records[rows]
    pixels = records["height"].astype(np.int64) * records["width"]
    if len(large := rows[pixels > decoding.max_megapixels * 1e6]):
        name = printable(os.fsdecode(index.text(int(large[0]))))
        raise DataError(
            f"{name} has {int(pixels.max()):,} pixels, more than dataset.max_megapixels={decoding.max_megapixels:g} "
            "million; raise it if you trust the file."
        )
    deepest = int(records["deepest"].max(initial=-1))
    if deepest >= 0 and decoding.value_range is None:
        name = printable(os.fsdecode(index.text(int(rows[records["deepest"].argmax()]))))
        raise DataError(
            f"{name} has 16 bits; with dataset.storage=packed, set the values of black and white "
            "(dataset.value_range=[0,65535]), or set dataset.storage=memory."
        )
    greatest = int(records["greatest"].max(initial=0))
    return Findings(damaged, int(records["frames"].sum()), greatest, deepest if deepest >= 0 else None, None)


def _notes(index: Index, rows: np.ndarray, found: _Found, pack: Path) -> tuple[Note, ...]:
    used, whole = int(index.records["length"][rows].sum()), int(index.records["length"].sum())
    size = f"{used / 2**30:.1f} GiB of files" if used >= 2**30 else f"{used / 2**20:.0f} MiB of files"
    notes = [Note("storage", "packed", f"packed in {printable(str(pack))}: {size}, decoded as they are needed")]
    if found.changed:
        text = f"{found.changed:,} files have changed since they were packed (size or time), and were packed again"
        notes.append(Note("repacked", found.changed, text))
    if 2 * used < whole:
        strangers = len(index) - len(rows)
        text = (
            f"the pack was made from other files too: {strangers:,} of its {len(index):,} images are not used; to free "
            f"{(whole - used) / 2**30:.1f} GiB, delete {printable(str(pack))} when no run uses it"
        )
        notes.append(Note("unused_in_pack", strangers, text, True))
    return tuple(notes)


def suits_memory(n: int, decoding: Decoding) -> bool:
    """Whether n decoded images fit comfortably: into a quarter of this machine's memory.

    Without a size they have to.
    """
    if decoding.size is None:
        return True
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return n * decoding.channels * decoding.size**2 <= memory / 4
