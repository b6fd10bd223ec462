"""Splits of a source: by image, by class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_runner.data.sources.source import PARTS, Source
from ssl_runner.data.splits.splitting import split_by_classes, split_source
from ssl_runner.errors import DataError


def numbered(labels, official=None, groups=None) -> Source:
    """A source whose image i encodes i in its first two pixels."""
    numbers = torch.arange(len(labels))
    images = torch.stack([numbers // 256, numbers % 256], dim=1).byte().view(-1, 1, 1, 2)
    names = tuple(f"class {label}" for label in range(max(labels) + 1))
    return Source("toy", images, torch.tensor(labels), names, groups, "content", official or {})


def parts_of(splits):
    return [part for part in (splits.train, splits.validation, splits.test) if part is not None]


def numbers_of(dataset):
    return (dataset.images[:, 0, 0, 0].long() * 256 + dataset.images[:, 0, 0, 1]).tolist()


def images_of(source, validation=0.1, test=0.2, seed=0):
    return split_source(source, "images", validation, None, seed, test)


def classes_of(source, counts, seed=0):
    return split_source(source, "classes", 0, counts, seed)


LABELS = st.lists(st.integers(0, 5), min_size=20, max_size=200)


@given(LABELS, st.floats(0.1, 0.4), st.floats(0, 0.4), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_by_images_every_image_is_in_exactly_one_part_with_its_own_label(labels, test, validation, seed):
    splits = images_of(numbered(labels), validation, test, seed)
    numbers = [number for part in parts_of(splits) for number in numbers_of(part)]
    assert sorted(numbers) == list(range(len(labels)))
    for part in parts_of(splits):
        assert part.labels.tolist() == [labels[number] for number in numbers_of(part)]


@given(LABELS, st.floats(0.1, 0.4), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_drawn_part_has_its_size_and_every_class_its_share_within_one_image(labels, test, seed):
    labels = [*labels, *labels]  # two of each at least
    splits = images_of(numbered(labels), 0, test, seed)
    n = round(test * len(labels))
    assert len(splits.test) == n
    counts = np.bincount(splits.test.labels, minlength=6)
    assert np.all(np.abs(counts - n * np.bincount(labels, minlength=6) / len(labels)) < 1)


@given(LABELS, st.floats(0.1, 0.4), st.floats(0.1, 0.4), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_class_keeps_a_train_image_and_parts_have_their_sizes_if_possible(labels, a, b, seed):
    labels = [*labels, *range(6, 12)]  # classes of one image
    splits = images_of(numbered(labels), a, b, seed)
    assert set(splits.train.labels.tolist()) == set(labels)
    spare = len(labels) - len(set(labels))
    n_test = min(round(b * len(labels)), spare)
    assert len(splits.test) == n_test
    assert len(splits.validation or ()) == min(round(a * len(labels)), spare - n_test)


@given(LABELS, st.integers(0, 9), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_by_classes_no_class_is_in_two_parts_and_labels_count_from_0_in_each(labels, seed, n_validation):
    source = numbered([*labels, *range(6)])
    splits = classes_of(source, [3, n_validation, 6 - 3 - n_validation], seed)
    names = [name for part in parts_of(splits) for name in part.class_names]
    assert sorted(names) == sorted(source.class_names)
    for part in parts_of(splits):
        assert set(part.labels.tolist()) == set(range(part.n_classes))
        names = [part.class_names[label] for label in part.labels.tolist()]
        assert names == [source.class_names[source.labels[number]] for number in numbers_of(part)]
    assert sum(map(len, parts_of(splits))) == len(source.images)


def test_by_images_a_published_test_part_stays_test_and_validation_is_drawn_from_train():
    official = {"train": torch.arange(40), "test": torch.arange(40, 60)}
    splits = images_of(numbered([0, 1] * 30, official), validation=10, test=0.5)
    assert numbers_of(splits.test) == list(range(40, 60))
    assert sorted(numbers_of(splits.train) + numbers_of(splits.validation)) == list(range(40))
    assert splits.validation.labels.bincount().tolist() == [5, 5]


def test_by_classes_images_of_all_published_parts_go_with_their_class():
    official = {"train": torch.arange(40), "test": torch.arange(40, 60)}
    splits = classes_of(numbered([0, 1] * 30, official), [1, 0, 1])
    assert len(splits.train) == len(splits.test) == 30


def test_by_images_keeps_a_published_validation_part():
    official = {"train": torch.arange(8), "validation": torch.arange(8, 12), "test": torch.arange(12, 20)}
    splits = images_of(numbered([0, 1] * 10, official), validation=2, test=0.5)
    assert [numbers_of(part) for part in parts_of(splits)] == [list(range(8)), list(range(8, 12)), list(range(12, 20))]


def test_without_labels_images_are_split_and_classes_refused():
    source = replace(numbered([0] * 20), labels=None, class_names=())
    splits = images_of(source)
    assert [len(part) for part in parts_of(splits)] == [14, 2, 4]
    assert splits.train.labels is None
    with pytest.raises(DataError, match="at most its 0 classes"):
        classes_of(source, [1, 0, 1])
    with pytest.raises(DataError, match=r"no labels.*dataset\.split=images"):
        split_by_classes(source, {part: [] for part in PARTS})


def test_a_split_depends_only_on_its_seed():
    source = numbered([0, 1, 2, 3] * 10)
    for split in (images_of, lambda source, seed=0: classes_of(source, [2, 0, 2], seed)):
        torch.manual_seed(1)
        first = split(source)
        torch.manual_seed(2)
        again, other = split(source), split(source, seed=1)
        assert torch.equal(first.test.images, again.test.images)
        assert first.test.fingerprint == again.test.fingerprint
        assert not torch.equal(first.test.images, other.test.images)


def test_the_test_part_does_not_depend_on_the_size_of_validation():
    source = numbered([0, 1, 2, 3] * 10)
    assert numbers_of(images_of(source, 0).test) == numbers_of(images_of(source, 0.5).test)
    assert classes_of(source, [2, 0, 2]).test.class_names == classes_of(source, [1, 1, 2]).test.class_names


def test_groups_follow_their_classes():
    groups = tuple("aabbcc")
    source = numbered(list(range(6)) * 3, groups=groups)
    for part in parts_of(classes_of(source, [2, 2, 2])):
        assert part.class_groups == tuple(groups[int(name.split()[1])] for name in part.class_names)
    assert images_of(source).train.class_groups == groups


def test_fingerprints_differ_by_part_by_seed_by_pixels_by_labels_and_by_names():
    source = numbered([0, 1, 2, 3] * 10)
    relabelled = replace(source, labels=source.labels.flip(0))
    renamed = replace(source, class_names=tuple("abcd"))
    repainted = replace(source, content="other content")
    many = [images_of(source), images_of(source, seed=1), classes_of(source, [2, 0, 2])]
    many += [images_of(other) for other in (relabelled, renamed, repainted)]
    fingerprints = [part.fingerprint for splits in many for part in parts_of(splits)]
    assert len(set(fingerprints)) == len(fingerprints)


def test_consecutive_images_are_not_copied():
    official = {"train": torch.arange(8), "test": torch.arange(8, 20)}
    source = numbered([0, 1] * 10, official)
    splits = images_of(source, validation=0)
    assert splits.train.images.data_ptr() == source.images.data_ptr()
    assert splits.test.images.data_ptr() == source.images[8:].data_ptr()


def test_without_validation_there_is_none():
    source = numbered([0, 1] * 10)
    assert images_of(source, validation=0).validation is None
    assert classes_of(source, [1, 0, 1]).validation is None


def test_no_counts_mean_64_16_and_20_percent_of_the_classes():
    splits = classes_of(numbered(list(range(100)) * 2), None)
    assert [part.n_classes for part in parts_of(splits)] == [64, 16, 20]


@pytest.mark.parametrize("counts", [[5, 5, 5], [0, 5, 5], [5, 5, 0], [5, 5], [-1, 5, 5]])
def test_impossible_counts_of_classes_are_refused(counts):
    with pytest.raises(DataError, match=r"dataset\.class_counts=.* of toy.*its 10 classes"):
        classes_of(numbered(list(range(10)) * 2), counts)


@pytest.mark.parametrize("amount", [20, 21, -1, -0.1, 1.5])
def test_impossible_numbers_of_images_are_refused(amount):
    with pytest.raises(DataError, match=r"dataset\.validation=.* of toy.*its 20 images"):
        images_of(numbered([0, 1] * 10), validation=amount, test=0.2)


def test_a_test_part_without_images_an_unknown_split_and_a_negative_seed_are_refused():
    source = numbered([0, 1] * 10)
    with pytest.raises(DataError, match=r"dataset\.test"):
        images_of(source, test=0)
    with pytest.raises(DataError, match=r"dataset\.split='image'.*'images' or 'classes'"):
        split_source(source, "image", 0, None, 0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"dataset\.split_seed=-1"):
        images_of(source, seed=-1)


def test_a_class_in_two_parts_is_refused_by_name():
    with pytest.raises(DataError, match="'class 1' of toy occurs twice"):
        split_by_classes(numbered([0, 1, 2] * 3), {"train": [0, 1], "validation": [], "test": [1, 2]})
