"""Makes the index of tar shards in the layout of WebDataset: where each image is, and its label."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from rich.progress import Progress

from ssl_runner.data.stores.index import Appending
from ssl_runner.data.stores.inspection import inspect
from ssl_runner.data.stores.shard_files import Shard, opened
from ssl_runner.data.stores.threads import decoding_threads
from ssl_runner.errors import DataError, printable
from ssl_runner.images.decoding import Damage, Decoding
from ssl_runner.images.files import image_suffixes
from ssl_runner.runtime.console import Console

AT_ONCE = 256  # images in memory together
END = 512  # bytes of zeros at the end of every tar archive


class Sample(NamedTuple):
    """An image in a shard: its name without suffix, its place, its content, and its label or None."""

    key: str
    offset: int
    data: bytes
    label: str | None


def append_shards(folder: Path, shards: Sequence[Shard], decoding: Decoding, label_key: str) -> None:
    """Append the images of shards to an index, shard by shard. Each shard is read once, from its start to its end.

    Args:
        folder: Folder of the index, made if it does not exist. The caller holds its lock.
        shards: Shards that it lacks.
        decoding: Every image is decoded once, to find out whether it is damaged.
        label_key: The key of the label in .json files.

    Raises:
        DataError: A shard is truncated or not a tar archive, or a label is not what it should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = Appending(folder, {"shards": [], "damaged": {}})
    bar = Progress(console=Console(stderr=True), transient=True)
    with bar, ThreadPoolExecutor(decoding_threads()) as pool:
        for shard in bar.track(shards, description=f"reading {len(shards):,} shards"):
            number = len(index.extra["shards"])
            with opened(shard) as file:
                samples = read_samples(file, shard.url, label_key)
                while group := list(islice(samples, AT_ONCE)):
                    found = pool.map(lambda sample: inspect(sample.data, decoding), group)
                    for sample, record in zip(group, found, strict=True):
                        if isinstance(record, Damage):
                            index.extra["damaged"][f"{number}/{sample.key}"] = list(record)
                            continue
                        record["file"], record["offset"] = number, sample.offset
                        text = sample.key if sample.label is None else f"{sample.key}\0{sample.label}"
                        index.add(record, text.encode("utf-8", "surrogateescape"))
            index.extra["shards"].append(list(shard))
            index.commit()  # after each shard, so that a killed process loses one at most


def read_samples(file: IO[bytes], url: str, label_key: str) -> Iterator[Sample]:
    """The images of a shard, in order. Files of a sample have the same name up to the first dot, and are neighbours.

    Raises:
        DataError: See `append_shards`.
    """
    try:
        yield from _grouped(_members(file), url, label_key)
    except (tarfile.TarError, EOFError) as error:
        truncated = "end of data" in str(error) or isinstance(error, EOFError)
        what = "is truncated" if truncated else f"is not a tar archive ({error})"
        raise DataError(f"the shard {printable(url)} {what}; copy it again.") from None


def _members(file: IO[bytes]) -> Iterator[tuple[str, str, int, bytes]]:
    """Name without suffix, suffix, offset and content of each file."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            content = archive.extractfile(member) if member.isfile() and stem else None
            if content is not None:
                yield f"{folder}/{stem}" if folder else stem, suffix.lower(), member.offset_data, content.read()
    file.seek(-END, 2)
    if file.read(END).strip(b"\0"):  # it ends exactly between two files, which tarfile takes for the end
        raise tarfile.ReadError("unexpected end of data")


def _grouped(members: Iterator[tuple[str, str, int, bytes]], url: str, label_key: str) -> Iterator[Sample]:
    key, image, label = None, None, None
    for name, suffix, offset, data in members:
        if name != key:
            if image is not None:
                yield Sample(*image, label)
            key, image, label = name, None, None
        if image is None and f".{suffix.rpartition('.')[2]}" in image_suffixes():
            image = (name, offset, data)
        elif suffix == "cls":
            label = data.decode("utf-8", "replace").strip()
        elif suffix == "json" and label is None:
            label = _of_json(data, label_key, name, url)
    if image is not None:
        yield Sample(*image, label)


def _of_json(data: bytes, label_key: str, name: str, url: str) -> str | None:
    where = f"{name}.json in the shard {printable(url)}"
    try:
        content = json.loads(data)
    except ValueError:
        raise DataError(f"{where} is not JSON; fix or delete it.") from None
    label = content.get(label_key) if isinstance(content, dict) else None
    if isinstance(label, dict | list):
        raise DataError(f"{where}: {label_key!r} is a {type(label).__name__}, expected a label; set dataset.label_key.")
    return None if label is None else str(label)
