"""The labels that evaluators learn from, and those that they are scored on."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ssl_runner.evaluation.gallery import by_share, describe, gallery_indices, rows_at, rows_of, share

CPU = torch.device("cpu")


def images(splits):
    """The labels of the gallery's parts, concatenated."""
    return torch.cat([part.images for part in gallery_indices(splits).parts])


@pytest.mark.parametrize("splits", ["by_images", "by_classes"])
@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.5])
def test_a_share_takes_its_rounded_part_of_each_class_and_at_least_one_image(splits, fraction, request):
    splits = request.getfixturevalue(splits)
    whole, part = gallery_indices(splits), gallery_indices(splits, fraction)
    counts = whole.gallery_labels.bincount()
    assert torch.equal(part.gallery_labels.bincount(), (counts * fraction).round().long().clamp(min=1))
    assert describe(splits, fraction)["labelled_images"] == len(part.gallery)


@pytest.mark.parametrize("splits", ["by_images", "by_classes"])
def test_smaller_shares_are_part_of_larger_ones_and_contain_no_query(splits, request):
    splits = request.getfixturevalue(splits)
    nested = [set(gallery_indices(splits, fraction).gallery.tolist()) for fraction in (0.01, 0.05, 0.1, 0.3, 1.0)]
    assert all(small < large for small, large in pairwise(nested))
    if splits.by == "classes":
        assert not nested[-1] & set(gallery_indices(splits).queries.tolist())


def test_all_labels_are_the_whole_gallery_with_the_existing_validation(by_images):
    found = gallery_indices(by_images, 1.0)
    assert found.gallery.tolist() == list(range(1200))
    assert found.validation.nonzero()[:, 0].tolist() == list(range(1000, 1200))
    without = gallery_indices(replace(by_images, validation=None))
    assert torch.equal(without.validation, share(by_images.train.labels, 0.2, "validation"))


@pytest.mark.parametrize("splits", ["by_images", "by_classes"])
def test_validation_of_a_share_is_a_fifth_of_it_so_no_further_label_is_used(splits, request):
    found = gallery_indices(request.getfixturevalue(splits), 0.1)
    part, whole = found.gallery_labels[found.validation].bincount(), found.gallery_labels.bincount()
    assert torch.equal(part, (whole * 0.2).round().long().clamp(min=1))
    assert not gallery_indices(request.getfixturevalue(splits), 0.001).validation.any()


def test_the_only_image_of_a_class_belongs_to_the_share_and_not_to_validation():
    labels = torch.tensor([0, 1, 0, 2, 1, 1, 0, 0])
    assert share(labels, 0.01, "labels", spare=0)[3]
    assert not share(labels, 0.99, "labels")[3]
    assert share(labels, 1.0, "labels", spare=0).all()


@pytest.mark.parametrize("splits", ["by_images", "by_classes"])
@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_the_gallerys_images_match_its_labels_in_any_order(splits, fraction, request):
    splits = request.getfixturevalue(splits)
    found = gallery_indices(splits, fraction)
    expected = images(splits)[found.gallery]
    assert torch.equal(torch.cat(found.images()), expected)
    labels = torch.cat([part.labels for part in found.parts])[found.gallery]
    assert torch.equal(labels, found.gallery_labels)
    rows = torch.randperm(len(found.gallery), generator=torch.Generator().manual_seed(0))
    assert torch.equal(rows_of(found.images(), rows, CPU), expected[rows])


def test_a_part_that_is_used_whole_is_not_copied(by_images):
    for mine, part in zip(gallery_indices(by_images).images(), (by_images.train, by_images.validation), strict=True):
        assert mine.data_ptr() == part.images.data_ptr()
    values = torch.arange(5)
    assert rows_at(values, torch.arange(5)) is values
    assert rows_at(values, torch.tensor([1, 3])).tolist() == [1, 3]


def test_selection_takes_its_share_only_from_train(by_images):
    found = gallery_indices(by_images.for_selection(), 0.1)
    assert [part.name for part in found.parts] == ["digits/train"]
    assert torch.equal(found.query_labels, by_images.validation.labels)


def test_scores_are_named_after_the_share_in_per_cent():
    shares = {1.0: "probe", 0.01: "probe_1pct", 0.05: "probe_5pct", 0.07: "probe_7pct", 0.1: "probe_10pct"}
    assert {labels: by_share("probe", labels) for labels in shares} == shares
    assert by_share("probe", 0.005) == "probe_0.5pct"
