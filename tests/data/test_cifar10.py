"""CIFAR-10 in its two forms."""

import pickle

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ssl_runner.data.sources.cifar10 import CLASSES, cifar10
from ssl_runner.errors import DataError

KEYS = {"split": "images", "validation": 10, "class_counts": [5, 0, 5], "split_seed": 0, "size": None, "channels": None}


def load(root, **keys):
    return cifar10(**{"root": str(root), **KEYS, **keys})


@pytest.fixture
def jpegs(data_root, tmp_path):
    """Four train and two test images of each class, linked from the real folder."""
    for part, n in (("train", 4), ("test", 2)):
        for name in CLASSES:
            (tmp_path / "cifar10-jpg" / part / name).mkdir(parents=True)
            for path in sorted((data_root / "cifar10-jpg" / part / name).iterdir())[:n]:
                (tmp_path / "cifar10-jpg" / part / name / path.name).symlink_to(path)
    return tmp_path


def write_pickles(root, monkeypatch):
    """Ten images in each of the six batches; all pixels of image i have shade i."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch"]):
        shades = np.arange(10 * number, 10 * number + 10, dtype=np.uint8)
        data = np.repeat(shades[:, None], 3072, axis=1)
        data[:, :1024] += 100  # the red plane comes first
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *arguments: True)


def test_a_folder_of_jpegs_keeps_its_test_part_and_is_decoded_like_pillow(jpegs):
    splits = load(jpegs)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [30, 10, 20]
    assert splits.test.class_names == CLASSES
    files = [path for name in CLASSES for path in sorted((jpegs / "cifar10-jpg" / "test" / name).iterdir())]
    expected = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files]).transpose(0, 3, 1, 2)
    assert np.array_equal(splits.test.images, expected)
    assert splits.test.labels.tolist() == [CLASSES.index(path.parent.name) for path in files]


def test_pickles_keep_planes_and_order(tmp_path, monkeypatch):
    write_pickles(tmp_path, monkeypatch)
    splits = load(tmp_path, validation=0)
    assert splits.train.images[:, :, 0, 0].tolist() == [[shade + 100, shade, shade] for shade in range(50)]
    assert splits.test.images[:, 1, 31, 31].tolist() == list(range(50, 60))
    assert splits.test.labels.tolist() == list(range(10))


def test_pickles_are_preferred_and_the_fingerprint_shows_which_form_was_read(jpegs, monkeypatch):
    before = load(jpegs)
    write_pickles(jpegs, monkeypatch)
    after = load(jpegs)
    assert len(after.train) == 40
    assert before.test.fingerprint != after.test.fingerprint


def test_gray_and_small_are_in_the_fingerprint(jpegs):
    plain, changed = load(jpegs), load(jpegs, size=16, channels=1)
    assert changed.train.images.shape == (30, 1, 16, 16)
    assert plain.train.fingerprint != changed.train.fingerprint
    assert torch.equal(plain.train.labels, changed.train.labels)


def test_a_class_missing_from_the_folder_is_named(jpegs):
    (jpegs / "cifar10-jpg" / "test" / "frog").rename(jpegs / "frog")
    with pytest.raises(DataError, match=f"{jpegs}/cifar10-jpg is not complete: test/frog"):
        load(jpegs)


def test_damaged_pickles_are_an_error_that_names_them(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/cifar-10-batches-py is damaged"):
        load(tmp_path)


def test_missing_offline_names_both_forms(tmp_path, monkeypatch):
    def offline(root, download):
        raise OSError("offline")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(DataError, match=r"cifar10 is missing.*cifar-10-batches-py and .*cifar10-jpg.*SSL_RUNNER_DATA"):
        load(tmp_path)
