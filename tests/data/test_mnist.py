"""MNIST and Fashion-MNIST."""

import os
import struct

import numpy as np
import pytest
import torch
import torchvision

from ssl_runner.data.sources.mnist import fashion_mnist, mnist, read_idx
from ssl_runner.errors import DataError

KEYS = {"split": "images", "validation": 5000, "class_counts": [5, 0, 5], "split_seed": 0, "size": None}


def load(root, kind=mnist, **keys):
    return kind(**{"root": str(root), "channels": None, **KEYS, **keys})


@pytest.fixture(scope="module")
def real(data_root):
    return load(data_root)


def test_idx_is_read_as_written(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "idx").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + array.tobytes())
    assert np.array_equal(read_idx(tmp_path / "idx"), array)


@pytest.mark.parametrize(
    "content", [b"", b"\0\0", b"\0\0\x08\x01\0\0\0\x05abcd", b"\0\0\x0d\x01\0\0\0\x04abcd", b"<html>"]
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "idx").write_bytes(content)
    with pytest.raises(DataError, match=f"{tmp_path}/idx is damaged"):
        read_idx(tmp_path / "idx")


def test_validation_is_5000_stratified_images_of_the_official_train_part(real):
    assert [len(part) for part in (real.train, real.validation, real.test)] == [55000, 5000, 10000]
    official = (real.train.labels.bincount() + real.validation.labels.bincount()).double()
    assert (real.validation.labels.bincount() - official / 12).abs().max() < 1
    assert real.train.images.shape[1:] == (1, 28, 28)
    assert real.train.class_names == tuple("0123456789")


def test_the_official_test_part_equals_torchvisions(real, data_root):
    expected = torchvision.datasets.MNIST(str(data_root), train=False)
    assert torch.equal(real.test.images[:, 0], expected.data)
    assert torch.equal(real.test.labels, expected.targets)


def test_by_classes_all_70000_images_are_used(data_root):
    splits = load(data_root, split="classes")
    assert len(splits.train) + len(splits.test) == 70000
    assert not set(splits.train.class_names) & set(splits.test.class_names)


def test_clothes_have_torchvisions_names(data_root):
    assert load(data_root, fashion_mnist).train.class_names == tuple(torchvision.datasets.FashionMNIST.classes)


def test_missing_offline_is_one_error_with_the_places_and_the_remedy(tmp_path, monkeypatch):
    def offline(root, download):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    for part in (
        "mnist is missing",
        f"{tmp_path}/MNIST/raw/train-images-idx3-ubyte",
        "SSL_RUNNER_DATA",
        "Name or service",
    ):
        assert part in str(caught.value)


def test_a_relative_root_is_reported_as_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda root, download: os.fspath(None))
    with pytest.raises(DataError, match=f"{tmp_path}/data/MNIST"):
        load("data")


def test_files_fetched_by_torchvision_are_read(tmp_path, monkeypatch):
    def fetch(root, download):
        raw = f"{root}/MNIST/raw"
        os.makedirs(raw)
        for part, n in (("train", 40), ("t10k", 20)):
            for kind, shape in (("images-idx3", (n, 2, 2)), ("labels-idx1", (n,))):
                with open(f"{raw}/{part}-{kind}-ubyte", "wb") as file:
                    file.write(bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape))
                    file.write(bytes(index % 10 for index in range(int(np.prod(shape)))))

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    splits = load(tmp_path, validation=10)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [30, 10, 20]
    assert splits.test.labels.tolist() == [*range(10)] * 2
