"""Digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ssl_runner.data.sources.digits import digits

KEYS = {"validation": 0.1, "test": 0.25, "class_counts": [5, 0, 5], "split_seed": 0, "size": 28, "channels": None}


def load(**keys):
    return digits(**{"split": "images", **KEYS, **keys})


def test_sixteen_shades_span_the_bytes_and_no_image_is_lost():
    splits = load(size=None)
    images = torch.cat([splits.train.images, splits.validation.images, splits.test.images])
    expected = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(image.numpy().tobytes() for image in images) == sorted(image.tobytes() for image in expected)
    assert images.max() == 255


def test_labels_belong_to_their_images():
    splits = load(size=None)
    known = {image.tobytes(): label for image, label in zip(*load_digits(return_X_y=True), strict=True)}
    for image, label in zip(splits.test.images, splits.test.labels, strict=True):
        original = np.round(image.numpy().astype(float) * 16 / 255).ravel()
        assert known[original.tobytes()] == label


def test_by_images_ten_percent_of_every_class_are_validation_and_a_quarter_test():
    splits = load()
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1168, 180, 449]
    assert splits.validation.labels.bincount().tolist() == [18] * 10
    assert set(splits.test.labels.bincount().tolist()) <= {44, 45, 46}
    assert splits.train.images.shape == (1168, 1, 28, 28)
    assert splits.by == "images"


def test_by_classes_five_digits_are_trained_on_and_the_other_five_held_out():
    splits = load(split="classes")
    assert splits.validation is None
    assert sorted(splits.train.class_names + splits.test.class_names) == [str(digit) for digit in range(10)]
    assert splits.train.n_classes == splits.test.n_classes == 5
    assert len(splits.train) + len(splits.test) == 1797
    assert splits.by == "classes"


@pytest.mark.parametrize("keys", [{"size": 32}, {"channels": 3}, {"split_seed": 1}, {"split": "classes"}])
def test_every_key_changes_the_fingerprint(keys):
    assert load(**keys).train.fingerprint != load().train.fingerprint


def test_a_second_load_is_the_same():
    first, second = load(), load()
    assert first.train.fingerprint == second.train.fingerprint
    assert torch.equal(first.train.images, second.train.images)


def test_the_file_that_is_read_equals_what_scikit_learn_loads(monkeypatch):
    directly = load(size=None)
    monkeypatch.setattr("ssl_runner.data.sources.digits.find_spec", lambda name: None)
    assert load(size=None).train.fingerprint == directly.train.fingerprint
    assert load(size=None).test.fingerprint == directly.test.fingerprint
