"""Torchvision's datasets, from small files in their own formats."""

import bz2
import gzip
import pickle
import struct

import numpy as np
import pytest
import torchvision
from scipy.io import savemat

from ssl_runner.data.sources.torchvision_sets import OPENINGS, torchvision_set
from ssl_runner.errors import DataError

KEYS = {"split": "images", "validation": 0, "class_counts": None, "split_seed": 0, "size": None, "channels": None}
RNG = np.random.default_rng(0)


def load(root, name, **keys):
    return torchvision_set(**{"name": name, "root": str(root), **KEYS, **keys})


@pytest.fixture(autouse=True)
def without_checksums(monkeypatch):
    for module in ("cifar", "svhn", "stl10"):
        monkeypatch.setattr(getattr(torchvision.datasets, module), "check_integrity", lambda *arguments: True)


def pictures(n, *shape):
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


def write_idx(folder, stem, images, labels):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"{stem}-{kind}-ubyte").write_bytes(header + array.tobytes())


def assert_is(splits, train, test, labels):
    assert np.array_equal(splits.train.images, train)
    assert np.array_equal(splits.test.images, test)
    assert splits.test.labels.tolist() == list(labels)


def test_kmnist(tmp_path):
    train, test, labels = pictures(20, 28, 28), pictures(10, 28, 28), np.arange(10, dtype=np.uint8)
    write_idx(tmp_path / "KMNIST" / "raw", "train", train, np.tile(labels, 2))
    write_idx(tmp_path / "KMNIST" / "raw", "t10k", test, labels)
    splits = load(tmp_path, "KMNIST")
    assert_is(splits, train[:, None], test[:, None], labels)
    assert splits.train.class_names[1] == "ki"
    assert splits.train.name == "kmnist/train"


def test_emnist_is_upright(tmp_path):
    train, test, labels = pictures(94, 28, 28), pictures(47, 28, 28), np.arange(47, dtype=np.uint8)
    lying = [np.ascontiguousarray(images.transpose(0, 2, 1)) for images in (train, test)]  # as it is published
    write_idx(tmp_path / "EMNIST" / "raw", "emnist-balanced-train", lying[0], np.tile(labels, 2))
    write_idx(tmp_path / "EMNIST" / "raw", "emnist-balanced-test", lying[1], labels)
    splits = load(tmp_path, "EMNIST")
    assert_is(splits, train[:, None], test[:, None], labels)
    assert splits.train.class_names[10] == "A"


def test_cifar100(tmp_path):
    train, test = pictures(200, 3, 32, 32), pictures(100, 3, 32, 32)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, images in (("train", train), ("test", test)):
        labels = [index % 100 for index in range(len(images))]
        (folder / name).write_bytes(pickle.dumps({"data": images.reshape(len(images), -1), "fine_labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"thing {label}" for label in range(100)]}))
    splits = load(tmp_path, "CIFAR100")
    assert_is(splits, train, test, range(100))
    assert splits.train.class_names[7] == "thing 7"
    by_classes = load(tmp_path, "CIFAR100", split="classes")
    assert [part.n_classes for part in (by_classes.train, by_classes.validation, by_classes.test)] == [64, 16, 20]


def test_svhn_has_label_0_for_zero(tmp_path):
    train, test = pictures(20, 3, 32, 32), pictures(10, 3, 32, 32)
    for name, images in (("train", train), ("test", test)):
        digits = np.arange(len(images)) % 10
        published = np.where(digits == 0, 10, digits)[:, None]
        savemat(tmp_path / f"{name}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": published})
    splits = load(tmp_path, "SVHN")
    assert_is(splits, train, test, range(10))
    assert splits.train.class_names == tuple("0123456789")


def test_stl10_is_read_column_by_column(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    train, test = pictures(20, 3, 96, 96), pictures(10, 3, 96, 96)
    for name, images in (("train", train), ("test", test)):
        (folder / f"{name}_X.bin").write_bytes(np.ascontiguousarray(images.transpose(0, 1, 3, 2)).tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes(1 + index % 10 for index in range(len(images))))
    (folder / "class_names.txt").write_text("\n".join(f"thing {label}" for label in range(10)))
    splits = load(tmp_path, "STL10")
    assert_is(splits, train, test, range(10))
    assert splits.train.class_names[9] == "thing 9"


def test_usps(tmp_path):
    for name, n in (("usps.bz2", 20), ("usps.t.bz2", 10)):
        lines = [f"{1 + i % 10} " + " ".join(f"{p + 1}:{(i % 3) - 1}" for p in range(256)) for i in range(n)]
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    splits = load(tmp_path, "USPS")
    assert splits.test.images[:4, 0, 0, 0].tolist() == [0, 127, 255, 0]
    assert splits.test.images.shape == (10, 1, 16, 16)
    assert splits.test.labels.tolist() == list(range(10))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match=r"dataset\.name='ImageNet': expected one of CIFAR10, .*image_folder"):
        load("data", "ImageNet")


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "usps.bz2").write_bytes(b"broken")
    (tmp_path / "usps.t.bz2").write_bytes(b"broken")
    with pytest.raises(DataError, match=f"USPS cannot be read: .*{tmp_path}/usps.bz2"):
        load(tmp_path, "USPS")


@pytest.mark.parametrize("name", sorted(OPENINGS))
def test_missing_offline_names_the_places(tmp_path, monkeypatch, name):
    def offline(*arguments, **keys):
        raise OSError("offline")

    monkeypatch.setattr(torchvision.datasets, name, offline)
    with pytest.raises(DataError, match=f"{name} is missing: looked for {tmp_path}/.*offline.*SSL_RUNNER_DATA"):
        load(tmp_path, name)


def test_torchvisions_own_mirrors_are_used_once(tmp_path, monkeypatch):
    """Torchvision's code downloads KMNIST's packed files, and they end up where it would put them."""
    images, labels = pictures(10, 28, 28), np.arange(10, dtype=np.uint8)
    asked = []

    def retrieve(url, download_root, filename=None, md5=None):
        asked.append(url)
        array = images if "images" in filename else labels
        raw = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        target = f"{download_root}/{filename.removesuffix('.gz')}"
        with open(target, "wb") as file:
            file.write(gzip.decompress(gzip.compress(raw)))

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", retrieve)
    assert_is(load(tmp_path, "KMNIST"), images[:, None], images[:, None], labels)
    assert len(asked) == 4
