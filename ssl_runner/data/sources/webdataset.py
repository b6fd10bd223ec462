"""Images in tar shards, as WebDataset writes them."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ssl_runner.config.paths import absolute
from ssl_runner.data.dataset import Note, Splits
from ssl_runner.data.sources.cache import cache_folder, check_damaged, short_hash
from ssl_runner.data.sources.source import Source
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import split_source
from ssl_runner.data.stores.index import Index, read_index
from ssl_runner.data.stores.pending import Left, left_by
from ssl_runner.data.stores.shard_files import Shard, ShardFiles, described, expanded, is_remote
from ssl_runner.data.stores.shard_index import append_shards
from ssl_runner.data.stores.store import ImageStore
from ssl_runner.data.stores.stored_images import StoredImages
from ssl_runner.errors import DataError, printable
from ssl_runner.images.decoding import Damage, Decoding, refuse
from ssl_runner.images.nvjpeg import Decoder
from ssl_runner.runtime.file_lock import locked
from ssl_runner.runtime.no_download import refuse_decoding


def webdataset(
    shards: str | list[str],
    validation_shards: str | list[str] | None,
    test_shards: str | list[str] | None,
    split: Literal["images", "classes"],
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int,
    channels: Literal[1, 3],
    background: int | list[int],
    label_key: str,
    damaged: Literal["refuse", "skip"],
    max_megapixels: float,
    duplicates: Duplicates,
    cache_gb: float,
    decoder: Decoder = "pillow",
) -> Splits:
    """Tar shards on this machine or behind URLs, read in any order: batches are drawn from all images of all shards.

    An index of the shards is made once, for which each is read from its start to its end. Crops come from the original
    pixels, as with ``dataset=image_folder dataset.storage=packed``.

    Args:
        shards: Path or URL of the training shards, or several, with ranges (``train-{000..146}.tar``) or stars. A URL
            is anything that fsspec opens: ``https://``, ``s3://``, ``gs://``, ``hf://``.
        validation_shards: Those of the validation part; None to draw it from the training part.
        test_shards: Those of the test part; None to draw it.
        split: ``images`` or ``classes``; `split_source` describes the other settings of the split.
        class_counts: Numbers of classes of train, validation and test; None for shares of 64, 16 and 20%.
        validation: Number of images, or their share; unused with validation shards.
        test: Number of images, or their share; unused with test shards.
        split_seed: Seed of all draws.
        size: Height and width of images in evaluation: the shorter side is resized and the center cropped. Also of
            views, if their augmentation gives no other.
        channels: 1 (gray) or 3 (RGB).
        background: The background for transparent pixels: a number in [0, 255], or red, green and blue.
        label_key: The key of the label in .json files; a .cls file beside an image goes first.
        damaged: ``refuse`` or ``skip`` images that cannot be decoded.
        max_megapixels: Larger images count as damaged.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        cache_gb: Size up to which remote shards are copied to this machine; further ones are read over the network.
        decoder: Decodes JPEGs out of which random crops are cut: ``pillow`` in threads, ``nvjpeg`` on a CUDA device.

    Raises:
        DataError: A shard is missing, truncated, or no tar archive; images are damaged; some images have no label.
    """
    check_damaged(damaged)
    if not cache_gb >= 0:
        raise DataError(f"dataset.cache_gb={cache_gb}: expected a number of at least 0; 0 copies nothing.")
    decoding = Decoding(size, channels, background=background, max_megapixels=max_megapixels)
    parts = {"train": shards, "validation": validation_shards, "test": test_shards}
    given = {part: _described([names] if isinstance(names, str) else names) for part, names in parts.items() if names}
    if "train" not in given:
        raise DataError("dataset.shards=[]: expected paths or URLs of tar shards.")
    wanted = [shard for part in given.values() for shard in part]
    folder = _place(wanted, decoding, label_key)
    index = _complete(folder, wanted, decoding, label_key)
    source = _source(index, given, decoding, damaged, cache_gb, left_by(decoder, index))
    return split_source(source, split, validation, class_counts, split_seed, test, duplicates)


def _described(patterns: Sequence[str]) -> list[Shard]:
    names = expanded([name if is_remote(name) else str(absolute(name)) for name in patterns])
    return [described(name) for name in names]


def _place(shards: Sequence[Shard], decoding: Decoding, label_key: str) -> Path:
    """One index for all shards beside the first one, so that shards that come later are appended."""
    beside = shards[0].url.rpartition("/")[0]
    made_by = [beside, label_key, decoding.channels, decoding.background, decoding.max_megapixels]
    return cache_folder() / f"shards-{short_hash(made_by)}"


def _complete(folder: Path, shards: Sequence[Shard], decoding: Decoding, label_key: str) -> Index:
    """An index that has all these shards, as they are now."""

    def lacking(index: Index | None) -> list[Shard]:
        known = set() if index is None else {tuple(shard) for shard in index.extra["shards"]}
        return [shard for shard in dict.fromkeys(shards) if tuple(shard) not in known]

    index = read_index(folder)
    if index is not None and not lacking(index):
        return index
    refuse_decoding("webdataset")
    try:
        with locked(folder.with_suffix(".lock")):
            missing = lacking(read_index(folder))  # another process may have just read them
            if missing:
                append_shards(folder, missing, decoding, label_key)
            index = read_index(folder)
    except OSError as error:
        raise DataError(
            f"the index of the shards cannot be made in {printable(str(folder))} ({error}); set SSL_RUNNER_CACHE to a "
            "writable folder with free space."
        ) from None
    assert index is not None
    return index


def _source(
    index: Index,
    given: dict[str, list[Shard]],
    decoding: Decoding,
    damaged: str,
    cache_gb: float,
    left: Left | None,
) -> Source:
    known = [Shard(*shard) for shard in index.extra["shards"]]
    number = {shard: place for place, shard in enumerate(known)}
    rows = {
        part: np.flatnonzero(np.isin(index.records["file"], [number[shard] for shard in shards]))
        for part, shards in given.items()
    }
    every, used = np.concatenate(list(rows.values())), {number[shard] for part in given.values() for shard in part}
    bad = [
        (Path(known[int(place.partition("/")[0])].url, place.partition("/")[2]), Damage(*damage))
        for place, damage in index.extra["damaged"].items()
        if int(place.partition("/")[0]) in used
    ]
    if damaged != "skip" or not len(every):
        refuse(bad, len(every) + len(bad), may_skip=True)
    if not len(every):
        raise DataError("the shards have no images; expected files such as 000123.jpg and 000123.cls in tar archives.")
    texts = [index.text(int(row)).decode("utf-8", "surrogateescape") for row in every]
    names = [
        f"{Path(known[int(file)].url).name}/{text.partition(chr(0))[0]}"
        for file, text in zip(index.records["file"][every], texts, strict=True)
    ]
    labels, class_names = _labels([text.partition("\0") for text in texts], names)
    digests = np.ascontiguousarray(index.records["digest"][every])
    content = hashlib.sha256(digests.tobytes() + repr(asdict(decoding)).encode()).hexdigest()
    ends = np.cumsum([0, *(len(own) for own in rows.values())]).tolist()
    official = {part: torch.arange(start, end) for part, start, end in zip(rows, ends, ends[1:], strict=False)}
    return Source(
        name=printable(Path(given["train"][0].url).parent.name or "webdataset"),
        images=StoredImages(_store(index, known, cache_gb), every, decoding, left),
        labels=labels,
        class_names=class_names,
        class_groups=None,
        content=content,
        official=official if len(official) > 1 else {},
        notes=_notes(known, used, bad),
        decoding={"background": decoding.background, "max_megapixels": decoding.max_megapixels},
        file_names=names,
        digests=digests,
    )


def _store(index: Index, known: list[Shard], cache_gb: float) -> ImageStore:
    def name(row: int) -> str:
        key = index.text(row).partition(b"\0")[0].decode("utf-8", "replace")
        return printable(f"{key} in the shard {known[int(index.records['file'][row])].url}")

    files = ShardFiles(known, cache_folder() / "shards", cache_gb * 1e9)
    return ImageStore(index, files, name, "start again, and the index is made anew if the shard has changed")


def _labels(texts: list[tuple[str, str, str]], names: list[str]) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """Numbers of the classes, and their names: in numeric order if all are numbers."""
    missing = [name for name, (_, labelled, _) in zip(names, texts, strict=True) if not labelled]
    if len(missing) == len(texts):
        return None, ()
    if missing:
        raise DataError(
            f"{printable(missing[0])} has no label, but other images do ({len(missing):,} of {len(texts):,} "
            "have none); add .cls files, or set dataset.label_key."
        )
    found = {label for _, _, label in texts}
    numeric = all(label.isdecimal() for label in found)
    class_names = sorted(found, key=int) if numeric else sorted(found)
    number = {label: place for place, label in enumerate(class_names)}
    return torch.tensor([number[label] for _, _, label in texts]), tuple(map(printable, class_names))


def _notes(known: list[Shard], used: set[int], bad: list[tuple[Path, Damage]]) -> tuple[Note, ...]:
    total = sum(known[place].size for place in used)
    notes = [Note("storage", "shards", f"{len(used):,} tar shards of {total / 2**20:,.0f} MiB, read in any order")]
    if bad:
        named = {printable(str(path)): damage.reason for path, damage in bad[:20]}
        first = next(iter(named.items()))
        text = f"left out {len(bad):,} images that cannot be decoded, such as {first[0]} ({first[1]})"
        notes.append(Note("damaged", {"n": len(bad), "files": named}, text, True))
    return tuple(notes)
