"""Reads a benchmark's folder of classes, whose parts its published split decides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssl_runner.data.sources.class_files import TABLES, read_tables
from ssl_runner.data.sources.folder_layout import Layout, layout_of
from ssl_runner.data.sources.image_folder import Storage, folder_source, load_folder
from ssl_runner.data.sources.source import Source, blank
from ssl_runner.errors import DataError, NotDownloaded, printable
from ssl_runner.images.decoding import Decoding
from ssl_runner.images.files import Scan, scan
from ssl_runner.runtime.no_download import refuse_download

SIDE = 84  # of an image whose size is not known


@dataclass(frozen=True)
class BenchmarkFolder:
    """Where a benchmark's files are, and how to get them.

    Attributes:
        name: The benchmark's name.
        path: Path below the folder of datasets.
        get: How to get it, for the message if it is missing.
        classes: Its classes, sorted; others are passed over.
        images: The number of its images.
        all_classes: Whether all classes that are there are read, because their names are not known.
    """

    name: str
    path: str
    get: str
    classes: Sequence[str]
    images: int
    all_classes: bool = False


def read_or_blank(root: Path, benchmark: BenchmarkFolder, decoding: Decoding, storage: Storage) -> Source:
    """All images of a benchmark; inside `no_download`, a `blank` source if they are missing or not decoded yet."""
    try:
        return _read(root, benchmark, decoding, storage)
    except NotDownloaded:
        side = decoding.size or SIDE
        shape, names = (3, side, side), benchmark.classes
        source = blank(benchmark.name, {"all": benchmark.images}, shape, names, decoding.size, decoding.channels)
        return replace(source, official={})


def _read(root: Path, benchmark: BenchmarkFolder, decoding: Decoding, storage: Storage) -> Source:
    """All images of a benchmark, without parts: classes are what splits them.

    Raises:
        DataError: The folder is missing, or its files have no classes.
    """
    folder = root / benchmark.path
    if not folder.is_dir():
        refuse_download(benchmark.name)
        raise DataError(
            f"{benchmark.name} is missing: looked for {folder}; {benchmark.get}, or set SSL_RUNNER_DATA (or "
            "dataset.root) to the folder that contains it."
        )
    found = scan(folder)
    layout = _layout(folder, found, benchmark)
    found.files = layout.files
    loaded = load_folder(benchmark.name, folder, found, decoding, "refuse", storage)
    return replace(folder_source(folder, found, layout, loaded, decoding), name=benchmark.name, official={})


def _layout(folder: Path, found: Scan, benchmark: BenchmarkFolder) -> Layout:
    """The files of the benchmark's classes and the class of each."""
    if all((folder / table).exists() for table in TABLES.values()):
        files, labels, _ = read_tables(folder, found.files)
        layout = Layout(files, {}, labels, ())
    else:
        layout = layout_of(folder, found.files)
    if layout.labels is None:
        raise DataError(
            f"{printable(str(folder))} has images without folders of classes; expected CLASS/* or "
            f"{{train,val,test}}/CLASS/*: {benchmark.get}."
        )
    if benchmark.all_classes:
        return layout
    known = set(benchmark.classes)
    own = [place for place, label in enumerate(layout.labels) if label in known]
    if not own:
        raise DataError(
            f"{printable(str(folder))} has no class of {benchmark.name}, but for example {layout.labels[0]!r}; "
            f"expected names such as {min(benchmark.classes)!r}."
        )
    files, labels = [layout.files[place] for place in own], [layout.labels[place] for place in own]
    return replace(layout, files=files, labels=labels, official={})
