"""Translated digits."""

import pytest
import torch

from ssl_runner.data.sources.digits import digits
from ssl_runner.data.sources.translated_digits import translated_digits
from ssl_runner.errors import DataError

KEYS = {"validation": 0.1, "test": 0.25, "class_counts": [5, 0, 5], "split_seed": 0}
SIZES = {"size": 20, "digit_size": 14, "channels": None}


def load(**keys):
    return translated_digits(**{"split": "images", **KEYS, **SIZES, **keys})


def plain(size: int):
    return digits("images", **KEYS, size=size, channels=None)


def test_each_image_is_its_digit_shifted_and_black_elsewhere():
    for moved, still in zip(load().test.images, plain(14).test.images, strict=True):
        windows = moved[0].unfold(0, 14, 1).unfold(1, 14, 1)  # all positions, (7, 7, 14, 14)
        assert (windows == still[0]).all(dim=(2, 3)).any()
        assert moved.long().sum() == still.long().sum()


def test_labels_and_parts_equal_those_of_the_digits():
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(load(), part).labels, getattr(plain(14), part).labels)
    assert load().train.class_names == plain(14).train.class_names


def test_every_position_on_the_canvas_is_about_equally_likely():
    splits = load(size=9, digit_size=8)  # four positions
    still = plain(8).train.images[:, 0]
    counts = torch.zeros(2, 2)
    for moved, digit in zip(splits.train.images[:, 0], still, strict=True):
        places = (moved.unfold(0, 8, 1).unfold(1, 8, 1) == digit).all(dim=(2, 3)).nonzero()
        if len(places) == 1:
            counts[tuple(places[0])] += 1
    shares = counts / counts.sum()
    assert counts.sum() > 1000
    assert ((shares - 0.25).abs() < 4 * (0.25 * 0.75 / counts.sum()).sqrt()).all()


def test_a_canvas_as_large_as_the_digit_gives_the_digits_themselves():
    assert torch.equal(load(size=14).train.images, plain(14).train.images)


def test_the_positions_do_not_depend_on_the_split():
    def images(seed):
        splits = load(split_seed=seed)
        return sorted(i.numpy().tobytes() for p in (splits.train, splits.validation, splits.test) for i in p.images)

    assert images(0) == images(1)


def test_three_channels_repeat_the_same_gray():
    assert torch.equal(load(channels=3).test.images, load().test.images.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("keys", [{"size": 21}, {"digit_size": 13}, {"channels": 3}, {"split_seed": 1}])
def test_every_key_changes_the_fingerprint(keys):
    assert load(**keys).train.fingerprint != load().train.fingerprint


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"digit_size": 21}, r"dataset.digit_size=21: expected 1 to 20 pixels"),
        ({"digit_size": 0}, r"dataset.digit_size=0: expected 1 to 20 pixels"),
        ({"size": 0}, r"dataset.size=0"),
        ({"channels": 2}, r"dataset.channels=2"),
    ],
)
def test_a_size_out_of_bounds_is_refused(keys, message):
    with pytest.raises(DataError, match=message):
        load(**keys)
