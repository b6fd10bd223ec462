"""The four target datasets of BSCD-FSL, on which a few-shot learner is judged and never trained."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from ssl_runner.config.paths import absolute
from ssl_runner.config.signatures import PathText
from ssl_runner.data.dataset import Dataset, Splits, held
from ssl_runner.data.sources.cache import load_images
from ssl_runner.data.sources.class_files import read_rows
from ssl_runner.data.sources.source import blank
from ssl_runner.errors import DataError, NotDownloaded, printable
from ssl_runner.images.decoding import Decoding
from ssl_runner.images.files import ImageFile, Scan, scan
from ssl_runner.runtime.no_download import refuse_download

LESIONS = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
FINDINGS = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax")
Labels = dict[ImageFile, str]


@dataclass(frozen=True)
class Target:
    """One of the four.

    Attributes:
        folder: Path below the folder of datasets.
        wanted: The file or folder in it without which it is missing.
        get: How to get it.
        label: The class of each image that is used, from the folder and its files.
        classes: Number of classes.
        images: Number of images that are used.
    """

    folder: str
    wanted: str
    get: str
    label: Callable[[Path, Scan], Labels]
    classes: int
    images: int


def bscd_fsl(
    name: Literal["crop_diseases", "eurosat", "isic", "chestx"],
    root: PathText,
    size: int,
    channels: Literal[1, 3],
) -> Splits:
    """A target dataset of BSCD-FSL (Guo et al. 2020, arXiv:1912.07200), all of whose images are test images.

    - ``crop_diseases``: ``root/CropDiseases/dataset/train/CLASS/*``, photographs of leaves, 38 kinds of healthy and
      sick ones.
    - ``eurosat``: ``root/EuroSAT/2750/CLASS/*``, satellite images of 10 uses of land.
    - ``isic``: ``root/ISIC/ISIC2018_Task3_Training_Input/*`` with the table
      ``ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv``, 7 kinds of skin lesions.
    - ``chestx``: images anywhere in ``root/chestX`` with its table ``Data_Entry_2017.csv``; X-rays with exactly one
      finding, which is one of 7 (the benchmark leaves out pneumonia, hernia and others).

    Nothing is downloaded. The train part is empty: the benchmark trains on other images, miniImageNet's.

    Args:
        name: Which of the four.
        root: Folder of datasets.
        size: Height and width (224 in the paper): the shorter side is resized and the center cropped. Deviation: the
            paper resizes both sides to 1.15 times the size and crops the center.
        channels: 1 (gray) or 3 (RGB).

    Raises:
        DataError: The dataset is missing, incomplete or damaged.
    """
    if name not in TARGETS:
        raise DataError(f"dataset.name={name!r}: expected one of {', '.join(TARGETS)}.")
    target, decoding = TARGETS[name], Decoding(size, channels)
    try:
        test = _read(name, absolute(root) / target.folder, target, decoding)
    except NotDownloaded:
        names = [f"class {number}" for number in range(target.classes)]
        none = blank(name, {"test": target.images}, (3, size, size), names, size, channels)
        test = Dataset(f"{name}/test", none.images, none.labels, none.class_names, None, none.content)
    assert test.labels is not None
    nothing = replace(test, name=f"{name}/train", images=test.images[:0], labels=test.labels[:0])
    return Splits(nothing, None, test, "classes")


def _read(name: str, folder: Path, target: Target, decoding: Decoding) -> Dataset:
    if not (folder / target.wanted).exists():
        refuse_download(name)
        raise DataError(
            f"{name} is missing: looked for {folder / target.wanted}; {target.get}, or set SSL_RUNNER_DATA (or "
            "dataset.root) to the folder that contains it."
        )
    found = scan(folder)
    labels = target.label(folder, found)
    found.files = sorted(labels)
    if not labels:
        raise DataError(f"{folder} has no image of the benchmark's classes; {target.get}.")
    loaded = load_images(name, folder, found, decoding)
    class_names = tuple(sorted(set(labels.values())))
    number = {class_name: label for label, class_name in enumerate(class_names)}
    numbers = [number[labels[file]] for file in found.files]
    return Dataset(
        name=f"{name}/test",
        images=held(loaded.images, name),
        labels=torch.tensor(numbers),
        class_names=tuple(map(printable, class_names)),
        class_groups=None,
        fingerprint=hashlib.sha256(repr((loaded.content, numbers, class_names)).encode()).hexdigest()[:16],
    )


def _by_folder(folder: Path, found: Scan) -> Labels:
    """The class of each image is the name of its folder."""
    return {file: file.path[0] for file in found.files if len(file.path) == 2}


def _lesions(folder: Path, found: Scan) -> Labels:
    """The class of each image is the column of the table in which it has a one."""
    table = folder / TARGETS["isic"].wanted
    by_name = {file.path[-1].rpartition(".")[0]: file for file in found.files}
    labels = {}
    for name, *cells in read_rows(table, ("image", *map(str.lower, LESIONS))):
        marked = [lesion for lesion, cell in zip(LESIONS, cells, strict=True) if cell.strip("0.")]
        if len(marked) != 1:
            raise DataError(f"{table} marks {len(marked)} lesions for {name!r}, expected one; unpack it again.")
        labels[_file(by_name, name, folder)] = marked[0]
    return labels


def _findings(folder: Path, found: Scan) -> Labels:
    """The class of each image is its finding in the table, if it has a single one that the benchmark uses."""
    by_name = {file.path[-1]: file for file in found.files}
    rows = read_rows(folder / TARGETS["chestx"].wanted, ("image index", "finding labels"))
    return {_file(by_name, name, folder): finding for name, finding in rows if finding in FINDINGS}


def _file(by_name: dict[str, ImageFile], name: str, folder: Path) -> ImageFile:
    if name not in by_name:
        raise DataError(f"{folder} is not complete: its table names {name!r}, which is not there; unpack it again.")
    return by_name[name]


TARGETS = {
    "crop_diseases": Target(
        "CropDiseases/dataset/train",
        "",
        "fetch https://www.kaggle.com/saroz014/plant-disease and unpack it in CropDiseases",
        _by_folder,
        classes=38,
        images=43_456,
    ),
    "eurosat": Target(
        "EuroSAT/2750",
        "",
        "fetch EuroSAT_RGB.zip (https://zenodo.org/records/7711810) and unpack its folders of classes there",
        _by_folder,
        classes=10,
        images=27_000,
    ),
    "isic": Target(
        "ISIC",
        "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv",
        "fetch the training input and ground truth of task 3 (https://challenge.isic-archive.com/data/#2018) and "
        "unpack both in ISIC",
        _lesions,
        classes=len(LESIONS),
        images=10_015,
    ),
    "chestx": Target(
        "chestX",
        "Data_Entry_2017.csv",
        "fetch https://www.kaggle.com/nih-chest-xrays/data and unpack it in chestX",
        _findings,
        classes=len(FINDINGS),
        images=25_848,
    ),
}
