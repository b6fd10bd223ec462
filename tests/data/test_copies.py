"""Images that occur in two parts."""

import pytest
import torch

from ssl_runner.data.sources.mnist import mnist
from ssl_runner.data.sources.source import Source
from ssl_runner.data.splits.copies import all_alike
from ssl_runner.data.splits.splitting import split_by_classes, split_source
from ssl_runner.errors import DataError


def source(train, validation, test, **keys):
    """A source of shades, one per image; labels are shades modulo 2."""
    shades = [*train, *validation, *test]
    bounds = torch.tensor([len(train), len(validation), len(test)]).cumsum(0).tolist()
    official = {
        "train": torch.arange(bounds[0]),
        "validation": torch.arange(bounds[0], bounds[1]),
        "test": torch.arange(bounds[1], bounds[2]),
    }
    images = torch.tensor(shades, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 5, 7).contiguous()
    labels = torch.tensor([shade % 2 for shade in shades])
    return Source("toy", images, labels, ("even", "odd"), None, "content", official, **keys)


def split(found, duplicates):
    return split_source(found, "images", 0, None, 0, duplicates=duplicates)


def shades(part):
    return part.images[:, 0, 0, 0].tolist()


TWICE = ([1, 2, 3, 4, 3], [5, 2, 6], [7, 3, 8, 5, 3])


def test_they_are_counted_and_one_is_named():
    splits = split(source(*TWICE), "warn")
    assert [shades(part) for part in (splits.train, splits.validation, splits.test)] == [list(part) for part in TWICE]
    (note,) = splits.notes
    assert (note.key, note.warning) == ("duplicates", True)
    assert note.value == {"test in validation": 1, "test in train": 2, "validation in train": 1}
    assert "1 of 5 test images occur in validation too (validation[0] is test[3])" in note.text
    assert "2 of 5 test images occur in train too (train[2] is test[1])" in note.text
    assert "1 of 3 validation images occur in train too (train[1] is validation[1])" in note.text


def test_dropping_removes_them_from_the_part_that_is_learned_from_and_keeps_test():
    before, splits = split(source(*TWICE), "warn"), split(source(*TWICE), "drop")
    assert [shades(part) for part in (splits.train, splits.validation, splits.test)] == [
        [1, 4],
        [2, 6],
        [7, 3, 8, 5, 3],
    ]
    assert splits.train.labels.tolist() == [1, 0]
    assert splits.test.fingerprint == before.test.fingerprint
    assert splits.train.fingerprint != before.train.fingerprint
    (note,) = splits.notes
    assert (note.key, note.value) == ("dropped_duplicates", {"validation": 1, "train": 3})


def test_they_are_refused_with_the_name_of_the_file():
    names = [f"file{place}.png" for place in range(13)]
    with pytest.raises(DataError, match=r"file2\.png is file9\.png.*dataset\.duplicates=drop"):
        split(source(*TWICE, file_names=names), "refuse")


def test_parts_without_any_have_no_note_and_are_never_refused():
    found = source([1, 2], [3, 4], [5, 6])
    assert split(found, "refuse").notes == ()
    assert split(found, "drop").train.fingerprint == split(found, "warn").train.fingerprint


def test_other_images_with_the_same_sum_are_not_copies():
    found = source([1, 2], [3, 4], [5, 6])
    found.images[0, 0, 0, 0], found.images[0, 0, 0, 1] = 9, 3
    found.images[4] = found.images[0].flip(2)
    assert split(found, "refuse").notes == ()


def test_by_classes_they_count_across_classes():
    found = source([1, 2], [], [3, 4])
    found.images[3] = found.images[0]  # one odd, one even
    splits = split_by_classes(found, {"train": [1], "validation": [], "test": [0]})
    assert splits.notes[0].value == {"test in train": 1}


def test_an_unknown_word_is_refused():
    with pytest.raises(DataError, match=r"dataset\.duplicates='none': expected 'warn', 'drop' or 'refuse'"):
        split(source([1], [2], [3]), "none")


def test_a_set_of_equal_images_is_reported():
    splits = split(source([1, 1, 1], [2, 3], [4, 5]), "warn")
    assert splits.notes[0].key == "all_alike"
    assert "all 3 images of toy/train are the same" in splits.notes[0].text
    assert splits.notes[0].warning
    assert not all_alike(torch.zeros(1, 1, 2, 2))
    assert not all_alike(torch.tensor([1, 1, 2]).view(3, 1, 1, 1))


def test_mnist_has_none_and_says_if_it_trains_on_all_images(data_root):
    assert mnist(str(data_root), "images", 5000, None, 0, None, None).notes == ()
    (note,) = mnist(str(data_root), "images", 0, None, 0, None, None).notes
    assert (note.key, note.value) == ("validation", "none")
    assert "all 60,000 training images are learned from" in note.text
