"""A user's own folder of images."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Note, Splits
from ssl_runner.data.sources.cache import Loaded, load_images
from ssl_runner.data.sources.class_files import read_lists, read_tables
from ssl_runner.data.sources.folder_layout import Layout, layout_of
from ssl_runner.data.sources.packed_folder import pack_folder, suits_memory
from ssl_runner.data.sources.source import PARTS, Source
from ssl_runner.data.splits.copies import Duplicates
from ssl_runner.data.splits.splitting import split_by_classes, split_source
from ssl_runner.errors import DataError, printable
from ssl_runner.images.decoding import LISTED, Decoding
from ssl_runner.images.files import ImageFile, Scan, scan
from ssl_runner.images.nvjpeg import Decoder

Storage = Literal["memory", "packed", "auto"]

DARK = 64  # if the largest value is below this, a set uses less than a quarter of its format's range


def image_folder(
    root: PathText,
    split: Literal["images", "classes"],
    class_split: PathText | None,
    class_counts: list[int] | None,
    validation: float,
    test: float,
    split_seed: int,
    size: int | None,
    channels: Literal[1, 3],
    background: int | list[int] = 128,
    value_range: list[float] | None = None,
    damaged: Literal["refuse", "skip"] = "refuse",
    max_megapixels: float = 179,
    duplicates: Duplicates = "warn",
    storage: Storage = "memory",
    decoder: Decoder = "pillow",
) -> Splits:
    """Images of any size and format in one of three layouts, decoded once and kept in the cache, or packed.

    The layouts are ``root/{train,val,test}/CLASS/**`` (`folder_layout.PART_FOLDERS` has the names of parts),
    ``root/CLASS/**``, or images without labels directly in ``root`` or in its parts. A root with train and val but
    without test is read like ImageNet: val is the test part, because accuracies are reported on it. With train only, or
    without parts, test is drawn. docs/images.md says what is read, refused and reported.

    With ``split=classes``, parts that share no class are the split (miniImageNet is often unpacked like that);
    otherwise ``class_split`` gives it, or else ``class_counts`` classes are drawn.

    Args:
        root: The folder.
        split: ``images`` or ``classes``; `split_source` describes the other settings of the split.
        class_split: For ``classes``: a folder with train.csv, val.csv and test.csv of ``filename,label``, or one YAML
            or JSON file, ``{train: [class, ...], validation: [...], test: [...]}``; None for neither.
        class_counts: Numbers of classes of train, validation and test; None for shares of 64, 16 and 20%.
        validation: Number of images, or their share of those outside a test folder; unused with a validation folder.
        test: Number of images, or their share; unused with a test folder.
        split_seed: Seed of all draws.
        size: Height and width: the shorter side is resized and the center cropped. None if all images have one size.
        channels: 1 (gray) or 3 (RGB).
        background: The background for transparent pixels: a number in [0, 255], or red, green and blue.
        value_range: Values that become 0 and 255; None for those of the files' formats, see `modes.eight_bits`.
        damaged: ``refuse`` or ``skip`` unreadable files and broken links.
        max_megapixels: Larger files count as damaged.
        duplicates: What to do with images that occur in two parts, see `ssl_runner.data.splits.copies.without_copies`.
        storage: ``memory`` decodes and resizes every image once, and keeps the pixels. ``packed`` keeps the files as
            they are, and cuts random crops out of the original pixels at every step. ``auto`` is ``memory`` if the
            pixels take less than a quarter of this machine's memory.
        decoder: Decodes JPEGs out of which random crops are cut: ``pillow`` in threads, ``nvjpeg`` on a CUDA device.
            Only packed images are decoded more than once.

    Raises:
        DataError: The folder is missing, empty or has another layout, or images are damaged; the message names them.
    """
    folder = absolute(root)
    decoding = Decoding(size, channels, background=background, value_range=value_range, max_megapixels=max_megapixels)
    if class_split is not None and split != "classes":
        raise DataError(f"dataset.class_split={class_split} needs dataset.split=classes, got {split!r}.")
    found, given = scan(folder), None if class_split is None else absolute(class_split)
    if given is not None and given.is_dir():
        return _split_by_tables(folder, given, found, decoding, damaged, duplicates, storage, decoder)
    layout = layout_of(folder, found.files)
    found.files = layout.files
    lists = (
        None if given is None else read_lists(given, sorted(set(layout.labels or ())))
    )  # before decoding, which takes long
    loaded = load_folder("image_folder", folder, found, decoding, damaged, storage, decoder)
    if len(loaded.files) < len(layout.files):
        layout = replace(layout_of(folder, loaded.files), notes=layout.notes)
    source = folder_source(folder, found, layout, loaded, decoding)
    if lists is not None:
        numbers = {part: [source.class_names.index(name) for name in names] for part, names in lists.items()}
        return split_by_classes(source, numbers, duplicates)
    seen = _classes_of_parts(source)
    if split == "classes" and _are_split_by_classes(source, seen):
        return split_by_classes(source, {part: sorted(seen.get(part, ())) for part in PARTS}, duplicates)
    if split == "images":
        _check_trained(source, seen)
    return split_source(source, split, validation, class_counts, split_seed, test, duplicates)


def _split_by_tables(
    folder: Path,
    tables: Path,
    found: Scan,
    decoding: Decoding,
    damaged: str,
    duplicates: Duplicates,
    storage: Storage,
    decoder: Decoder,
) -> Splits:
    """Splits by the classes in train.csv, val.csv and test.csv."""
    files, labels, parts = read_tables(tables, found.files)
    found.files, label_of = files, dict(zip(files, labels, strict=True))
    # its own selection of files, so its own entry
    loaded = load_folder(f"image_folder-{_tag(tables)}", folder, found, decoding, damaged, storage, decoder)
    layout = Layout(loaded.files, {}, [label_of[file] for file in loaded.files], ())
    source = folder_source(folder, found, layout, loaded, decoding)
    present = set(source.class_names)
    numbers = {part: [source.class_names.index(name) for name in parts[part] if name in present] for part in PARTS}
    return split_by_classes(source, numbers, duplicates)


def load_folder(
    name: str,
    folder: Path,
    found: Scan,
    decoding: Decoding,
    damaged: str,
    storage: Storage,
    decoder: Decoder = "pillow",
) -> Loaded:
    """The images of a folder's files, in memory or packed.

    Args:
        name: Name of the cache entry, one per dataset and selection of files.

    Raises:
        DataError: Files are damaged, or storage or decoder do not fit.
    """
    if storage not in ("memory", "packed", "auto"):
        raise DataError(f"dataset.storage={storage!r}: expected 'memory', 'packed' or 'auto'.")
    if storage == "memory" and decoder == "nvjpeg":
        raise DataError(
            "dataset.decoder=nvjpeg, but with dataset.storage=memory every image is decoded once, by Pillow; set "
            "dataset.storage=packed or dataset.decoder=pillow."
        )
    if storage == "packed" or (storage == "auto" and not suits_memory(len(found.files), decoding)):
        return pack_folder(folder, found, decoding, damaged, decoder)
    loaded = load_images(name, folder, found, decoding, damaged)
    if storage == "memory":
        return loaded
    text = "decoded once and kept in memory, because they fit; dataset.storage=packed crops original pixels instead"
    text += " (dataset.decoder=nvjpeg is not used here)" if decoder == "nvjpeg" else ""
    return replace(loaded, notes=(Note("storage", "memory", text),))


def folder_source(folder: Path, found: Scan, layout: Layout, loaded: Loaded, decoding: Decoding) -> Source:
    """The source that a folder's layout and its images make, under the folder's name."""
    class_names = sorted(set(layout.labels or ()))
    number = {class_name: label for label, class_name in enumerate(class_names)}
    return Source(
        name=printable(folder.name),
        images=loaded.images,
        labels=None if layout.labels is None else torch.tensor([number[label] for label in layout.labels]),
        class_names=tuple(class_names),
        class_groups=None,
        content=loaded.content,
        official=layout.official,
        notes=(*layout.notes, *_notes(folder, found, loaded, decoding)),
        decoding={
            "background": decoding.background,
            "value_range": decoding.value_range,
            "bits": loaded.findings.bits,
            "max_megapixels": decoding.max_megapixels,
        },
        file_names=[_shown(file) for file in layout.files],
        digests=loaded.digests,
    )


def _notes(folder: Path, found: Scan, loaded: Loaded, decoding: Decoding) -> list[Note]:
    """Notes on which of the folder's files were left out, and how the others were read."""
    notes, findings = list(loaded.notes), loaded.findings
    if loaded.damaged:
        named = {printable(str(path.relative_to(folder))): damage.reason for path, damage in loaded.damaged[:LISTED]}
        first, n = next(iter(named.items())), len(loaded.damaged)
        value = {"files": n, "first": named}
        notes.append(Note("skipped", value, f"{n:,} damaged files are skipped, first {first[0]}: {first[1]}", True))
    if found.others:
        kinds = sorted(found.others.items(), key=lambda kind: (-kind[1], kind[0]))
        listed = ", ".join(f"{n:,} {suffix or 'without a suffix'}" for suffix, n in kinds[:8])
        more = f" and {len(kinds) - 8} more kinds" if len(kinds) > 8 else ""
        notes.append(Note("no_images", dict(kinds), f"left out, not images that Pillow reads: {listed}{more}"))
    if findings.several_frames:
        text = f"only the first frame is used of {findings.several_frames:,} files with several frames"
        notes.append(Note("several_frames", findings.several_frames, text))
    if findings.bits is not None and findings.bits < 16:
        text = (
            f"the largest value of the 16-bit files is {findings.deepest:,}, so they are read as {findings.bits} bits; "
            "dataset.value_range=[0,65535] reads all 16"
        )
        notes.append(Note("bits", findings.bits, text))
    if findings.greatest < DARK:
        text = (
            f"the largest value of any pixel is {findings.greatest} of 255, so all images are nearly black; if "
            f"{findings.greatest} is white, set dataset.value_range=[0,{max(1, findings.greatest)}]"
        )
        notes.append(Note("greatest_value", findings.greatest, text, True))
    return notes


def _classes_of_parts(source: Source) -> dict[str, set[int]]:
    if source.labels is None:
        return {}
    return {part: set(source.labels[indices].tolist()) for part, indices in source.official.items()}


def _are_split_by_classes(source: Source, seen: dict[str, set[int]]) -> bool:
    """Whether the parts have disjoint classes. If they all have the same classes, classes are drawn from all parts.

    Raises:
        DataError: They share some classes, so images of the test part would be trained on.
    """
    if len(seen) < 2 or all(classes == seen["train"] for classes in seen.values()):
        return False
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        if shared := sorted(seen.get(first, set()) & seen.get(second, set())):
            raise DataError(
                f"class {source.class_names[shared[0]]!r} of {source.name} occurs in {first} and in {second} "
                f"({len(shared):,} classes do), but dataset.split=classes needs different classes in each part; "
                "move them, name the split with dataset.class_split, or set dataset.split=images."
            )
    return True


def _check_trained(source: Source, seen: dict[str, set[int]]) -> None:
    for part, classes in seen.items():
        if strange := sorted(classes - seen["train"]):
            raise DataError(
                f"class {source.class_names[strange[0]]!r} of {source.name}/{part} has no images in train; "
                "if the parts are meant to have different classes, set dataset.split=classes."
            )


def _shown(file: ImageFile) -> str:
    return printable("/".join(file.path))


def _tag(path: Path) -> str:
    return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:8]
