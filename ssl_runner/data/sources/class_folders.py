"""Benchmarks of few-shot learning that are folders of classes, each with its published split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Note, Splits
from ssl_runner.data.sources.class_files import TABLES, read_tables
from ssl_runner.data.sources.class_lists import ClassSplit, listed_parts, made_from, split_listed
from ssl_runner.data.sources.folder_layout import Layout, layout_of
from ssl_runner.data.sources.image_folder import Storage, folder_source, load_folder
from ssl_runner.data.sources.source import PARTS, Source, blank
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.errors import DataError, NotDownloaded, printable
from ssl_runner.images.decoding import Decoding
from ssl_runner.images.files import Scan, scan
from ssl_runner.runtime.no_download import refuse_download

PER_CLASS = 600  # images of a class of miniImageNet
N_BIRDS = 200
SIDE = 84  # of an image whose size is not known


@dataclass(frozen=True)
class Folder:
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


def mini_imagenet(
    root: PathText,
    split: Literal["images", "classes"],
    class_split: ClassSplit,
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int | None,
    channels: Literal[1, 3],
    duplicates: Duplicates,
    storage: Storage,
) -> Splits:
    """miniImageNet (Vinyals et al. 2016, arXiv:1606.04080): 600 images in each of 100 classes of ImageNet.

    The published split is that of Ravi and Larochelle (2017), 64, 16 and 20 classes (lists/mini_imagenet.txt). Three
    layouts are read: ``root/mini_imagenet/CLASS/*``, ``root/mini_imagenet/{train,val,test}/CLASS/*``, and images
    anywhere in ``root/mini_imagenet`` with the published train.csv, val.csv and test.csv beside them, which name the
    600 images of each class. Nothing is downloaded.

    Args:
        root: Folder of datasets.
        split: ``classes`` or ``images``; `split_source` describes the other settings of the split.
        class_split: ``published``, or ``random``, which draws ``class_counts`` classes.
        class_counts: Numbers of classes of train, validation and test, for ``random``.
        validation: Number of images, or their share, for ``split=images``.
        test: Same for the test part.
        split_seed: Seed of all draws.
        size: Height and width: the shorter side is resized and the center cropped. None if all images have one size.
        channels: 1 (gray) or 3 (RGB).
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        storage: ``memory``, ``packed`` or ``auto``, see `ssl_runner.data.sources.image_folder.image_folder`.

    Raises:
        DataError: The dataset is missing, incomplete or damaged.
    """
    parts = listed_parts("mini_imagenet")
    get = (
        "its images are ImageNet's, which may not be passed on: put folders of its 100 classes there, or its images "
        "with train.csv, val.csv and test.csv of github.com/twitter-research/meta-learning-lstm (data/miniImagenet)"
    )
    folder = Folder("mini_imagenet", "mini_imagenet", get, _sorted(parts), 60_000)
    source = _source(absolute(root), folder, Decoding(size, channels), storage)
    assert source.labels is not None
    counts = source.labels.bincount()
    if int(counts.min()) != PER_CLASS or int(counts.max()) != PER_CLASS:
        text = f"classes have {int(counts.min()):,} to {int(counts.max()):,} images; the published dataset has 600 each"
        source = replace(source, notes=(*source.notes, Note("images_per_class", counts.tolist(), text, True)))
    splits = split_listed(source, parts, split, class_split, validation, class_counts, split_seed, test, duplicates)
    return made_from(splits, "imagenet")


def tiered_imagenet(
    root: PathText,
    split: Literal["images", "classes"],
    class_split: ClassSplit,
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int | None,
    channels: Literal[1, 3],
    duplicates: Duplicates,
    storage: Storage,
) -> Splits:
    """tieredImageNet (Ren et al. 2018, arXiv:1803.00676): 608 classes of ImageNet in 34 categories of WordNet.

    The published split has 351, 97 and 160 classes (lists/tiered_imagenet.txt), and no category in two parts. The
    layouts are ``root/tiered_imagenet/CLASS/*``, which may be a link to ImageNet's training images (further classes are
    passed over), and ``root/tiered_imagenet/{train,val,test}/CLASS/*``. Nothing is downloaded. Its 779,165 images take
    15 GiB at 84 pixels; ``storage=packed`` keeps the files instead.

    Args:
        root: Folder of datasets.
        split: See `mini_imagenet`, also for the other settings.
        class_split: ``published``, or ``random``, which draws ``class_counts`` classes.
        class_counts: Numbers of classes of train, validation and test, for ``random``.
        validation: Number of images, or their share, for ``split=images``.
        test: Same for the test part.
        split_seed: Seed of all draws.
        size: Height and width: the shorter side is resized and the center cropped. None if all images have one size.
        channels: 1 (gray) or 3 (RGB).
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        storage: ``memory``, ``packed`` or ``auto``, see `ssl_runner.data.sources.image_folder.image_folder`.

    Raises:
        DataError: The dataset is missing, incomplete or damaged.
    """
    parts = listed_parts("tiered_imagenet")
    get = "its images are ImageNet's, which may not be passed on: link ImageNet's folder of training classes there"
    folder = Folder("tiered_imagenet", "tiered_imagenet", get, _sorted(parts), 779_165)
    source = _source(absolute(root), folder, Decoding(size, channels), storage)
    splits = split_listed(source, parts, split, class_split, validation, class_counts, split_seed, test, duplicates)
    return made_from(splits, "imagenet")


def cub(
    root: PathText,
    split: Literal["images", "classes"],
    class_split: ClassSplit,
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int | None,
    channels: Literal[1, 3],
    duplicates: Duplicates,
    storage: Storage,
) -> Splits:
    """CUB-200-2011 (Wah et al. 2011): 11,788 photographs of 200 kinds of birds, in ``root/CUB_200_2011/images/CLASS``.

    The published split is that of Chen et al. (2019, arXiv:1904.04232): of the sorted classes, every second one is for
    training (the first, the third, ...), and the others are in turn for validation and test: 100, 50 and 50. Nothing is
    downloaded.

    Args:
        root: Folder of datasets.
        split: See `mini_imagenet`, also for the other settings.
        class_split: ``published``, or ``random``, which draws ``class_counts`` classes.
        class_counts: Numbers of classes of train, validation and test, for ``random``.
        validation: Number of images, or their share, for ``split=images``.
        test: Same for the test part.
        split_seed: Seed of all draws.
        size: Height and width: the shorter side is resized and the center cropped. None if all images have one size.
        channels: 1 (gray) or 3 (RGB).
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        storage: ``memory``, ``packed`` or ``auto``, see `ssl_runner.data.sources.image_folder.image_folder`.

    Raises:
        DataError: The dataset is missing, incomplete or damaged.
    """
    get = "fetch CUB_200_2011.tgz (https://www.vision.caltech.edu/datasets/cub_200_2011) and unpack it"
    names = [f"class {number:03d}" for number in range(1, N_BIRDS + 1)]
    folder = Folder("cub", "CUB_200_2011/images", get, names, 11_788, all_classes=True)
    source = _source(absolute(root), folder, Decoding(size, channels), storage)
    if split == "classes" and class_split == "published" and len(source.class_names) != N_BIRDS:
        raise DataError(
            f"cub is not complete: class_split=published needs all {N_BIRDS} classes, but there are "
            f"{len(source.class_names)}; unpack it again, or set dataset.class_split=random."
        )
    parts = chen_split(source.class_names)
    return split_listed(source, parts, split, class_split, validation, class_counts, split_seed, test, duplicates)


def chen_split(class_names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The parts of CUB's sorted classes in the split of Chen et al. (2019)."""
    return {"train": class_names[::2], "validation": class_names[1::4], "test": class_names[3::4]}


def _sorted(parts: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted(name for part in PARTS for name in parts[part])


def _source(root: Path, benchmark: Folder, decoding: Decoding, storage: Storage) -> Source:
    """All images of a benchmark; inside `no_download`, a `blank` source if they are missing or not decoded yet."""
    try:
        return _read(root, benchmark, decoding, storage)
    except NotDownloaded:
        side = decoding.size or SIDE
        shape, names = (3, side, side), benchmark.classes
        source = blank(benchmark.name, {"all": benchmark.images}, shape, names, decoding.size, decoding.channels)
        return replace(source, official={})


def _read(root: Path, benchmark: Folder, decoding: Decoding, storage: Storage) -> Source:
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


def _layout(folder: Path, found: Scan, benchmark: Folder) -> Layout:
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
