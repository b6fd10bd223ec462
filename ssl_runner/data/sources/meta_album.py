"""Meta-Album's datasets: a folder of images with a table of their classes."""

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Splits
from ssl_runner.data.sources.class_files import read_rows, read_text
from ssl_runner.data.sources.folder_layout import Layout
from ssl_runner.data.sources.image_folder import Storage, folder_source, load_folder
from ssl_runner.data.sources.source import Source, blank
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import split_source
from ssl_runner.errors import DataError, NotDownloaded, printable
from ssl_runner.images.decoding import Decoding
from ssl_runner.images.files import ImageFile, Scan, scan
from ssl_runner.runtime.no_download import refuse_download

TABLE, INFO = "labels.csv", "info.json"
# the names of the columns, and the keys under which info.json may give other ones
COLUMNS = {
    "image_column_name": "FILE_NAME",
    "category_column_name": "CATEGORY",
    "super_category_column_name": "SUPER_CATEGORY",
}
NONE = ("", "nan")  # a super-category that is none, in lower case


def meta_album(
    name: str,
    root: PathText,
    split: Literal["images", "classes"],
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int | None,
    channels: Literal[1, 3],
    duplicates: Duplicates,
    storage: Storage,
) -> Splits:
    """A dataset of Meta-Album (Ullah et al. 2022, arXiv:2302.08909), in ``root/meta_album/NAME`` as it is published.

    This is a table, ``labels.csv`` with the columns FILE_NAME, CATEGORY and SUPER_CATEGORY (which may be missing, or
    named otherwise by ``info.json``), and the images of 128 x 128 pixels in ``images``. Super-categories are the groups
    of the classes. Nothing is downloaded.

    Args:
        name: Name of the folder, such as BRD_Mini.
        root: Folder of datasets.
        split: ``classes`` or ``images``; `split_source` describes the other settings of the split.
        class_counts: Numbers of classes of train, validation and test; None for shares of 64, 16 and 20%.
        validation: Number of images, or their share, for ``split=images``.
        test: Same for the test part.
        split_seed: Seed of all draws.
        size: Height and width: the shorter side is resized and the center cropped. None keeps 128.
        channels: 1 (gray) or 3 (RGB).
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        storage: ``memory``, ``packed`` or ``auto``, see `ssl_runner.data.sources.image_folder.image_folder`.

    Raises:
        DataError: The dataset is missing or damaged, or the table names an image that is not there.
    """
    folder = absolute(root) / "meta_album" / name
    try:
        source = _read(folder, name, Decoding(size, channels), storage)
    except NotDownloaded:  # many classes, so that no number of them is refused because of it
        names = [f"class {number}" for number in range(1000)]
        source = blank(name, {"all": 40_000}, (3, 128, 128), names, size, channels)
        source = replace(source, official={})
    return split_source(source, split, validation, class_counts, split_seed, test, duplicates)


def _read(folder: Path, name: str, decoding: Decoding, storage: Storage) -> Source:
    table = folder / TABLE
    if not table.is_file():
        refuse_download(f"meta_album {name}")
        raise DataError(
            f"meta_album {name} is missing: looked for {printable(str(table))}; fetch it (https://meta-album.github.io)"
            f" and unpack it in {printable(str(folder.parent))}, or set SSL_RUNNER_DATA (or dataset.root)."
        )
    found = scan(folder)
    files, labels, groups = _labelled(folder, table, found)
    found.files = files
    loaded = load_folder(f"meta_album-{name}", folder, found, decoding, "refuse", storage)
    source = folder_source(folder, found, Layout(files, {}, labels, ()), loaded, decoding)
    if groups:
        source = replace(source, class_groups=tuple(groups.get(category, "") for category in source.class_names))
    return source


def _labelled(folder: Path, table: Path, found: Scan) -> tuple[list[ImageFile], list[str], dict[str, str]]:
    """The listed files in the order of their paths, the category of each, and the super-category of each category."""
    image, category, group = _columns(folder)
    by_path = {tuple(map(printable, file.path)): file for file in found.files}
    category_of: dict[ImageFile, str] = {}
    groups: dict[str, str] = {}
    for name, label, above in read_rows(table, (image, category), (group,)):
        parts = PurePosixPath(name).parts
        file = by_path.get(("images", *parts)) or by_path.get(parts)
        if file is None:
            raise DataError(
                f"{printable(str(table))} names {name!r}, which is not in {printable(str(folder / 'images'))}; unpack "
                "the dataset again."
            )
        if category_of.setdefault(file, label) != label:
            raise DataError(
                f"{printable(str(table))} has {name!r} in {category_of[file]!r} and in {label!r}; an image has one "
                "category."
            )
        if above.lower() not in NONE:
            groups[label] = above
    files = sorted(category_of)
    return files, [category_of[file] for file in files], groups


def _columns(folder: Path) -> list[str]:
    """Names of the columns of images, categories and super-categories, in lower case."""
    info = folder / INFO
    try:
        given = json.loads(read_text(info)) if info.exists() else {}
    except ValueError:  # the published example ends in a comma
        given = {}
    named = given if isinstance(given, dict) else {}
    return [str(named.get(key) or usual).strip().lower() for key, usual in COLUMNS.items()]
