"""CIFAR-FS from small pickles in CIFAR-100's format."""

import pickle

import numpy as np
import pytest
import torchvision

from ssl_runner.data.sources.cifar_fs import cifar_fs
from ssl_runner.data.sources.class_lists import listed_parts
from ssl_runner.data.sources.source import PARTS
from ssl_runner.errors import DataError
from ssl_runner.runtime.no_download import no_download

NAMES = sorted(name for names in listed_parts("cifar_fs").values() for name in names)
KEYS = {
    "split": "classes",
    "class_split": "published",
    "class_counts": None,
    "validation": 0,
    "split_seed": 0,
    "size": None,
    "channels": None,
    "duplicates": "warn",
}


@pytest.fixture
def pickles(tmp_path, monkeypatch):
    """Two training images and one test image of each class, whose first pixel is the class."""
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *arguments: True)
    rng, folder = np.random.default_rng(0), tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, n in (("train", 200), ("test", 100)):
        labels = [index % 100 for index in range(n)]
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        data[:, 0] = labels
        (folder / name).write_bytes(pickle.dumps({"data": data, "fine_labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES}))
    return tmp_path


def test_classes_are_split_as_published_with_the_images_of_both_parts_of_cifar100(pickles):
    splits, parts = cifar_fs(str(pickles), **KEYS), listed_parts("cifar_fs")
    for name, part in zip(PARTS, (splits.train, splits.validation, splits.test), strict=True):
        assert list(part.class_names) == sorted(parts[name])
        assert part.name == f"cifar_fs/{name}"
        assert part.seen == ("cifar_fs", "cifar100")
        assert part.labels.bincount().tolist() == [3] * len(parts[name])
        true = [NAMES[number] for number in part.images[:, 0, 0, 0].tolist()]
        assert true == [part.class_names[label] for label in part.labels.tolist()]


def test_other_splits(pickles):
    drawn = cifar_fs(str(pickles), **KEYS | {"class_split": "random", "class_counts": [50, 20, 30]})
    assert [part.n_classes for part in (drawn.train, drawn.validation, drawn.test)] == [50, 20, 30]
    by_images = cifar_fs(str(pickles), **KEYS | {"split": "images"})
    assert (len(by_images.train), len(by_images.test), by_images.test.n_classes) == (200, 100, 100)


def test_a_config_can_be_checked_before_the_download(tmp_path):
    with no_download() as absent:
        splits = cifar_fs(str(tmp_path), **KEYS)
    assert absent == ["CIFAR100"]
    assert splits.train.images.shape == (600 * 64, 3, 32, 32)


def test_missing_offline_names_the_place(tmp_path, monkeypatch):
    def offline(*arguments, **keys):
        raise OSError("offline")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", offline)
    with pytest.raises(DataError, match=f"CIFAR100 is missing: looked for {tmp_path}/cifar-100-python.*offline"):
        cifar_fs(str(tmp_path), **KEYS)
