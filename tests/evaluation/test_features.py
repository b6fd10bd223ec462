"""Features, and the sets that kNN and linear probe learn from and are scored on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_runner.evaluation.features import dataset_features, features_at, gallery_and_queries, remembered
from ssl_runner.evaluation.gallery import describe, gallery_indices, share
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.models.features import evaluating, features

CPU = torch.device("cpu")


@pytest.fixture
def pixels():
    return RawPixels((1, 8, 8)).eval_encoder()


def test_raw_pixels_are_the_pixels_in_0_to_1(pixels, digits):
    found = features(pixels, digits.images, CPU)
    assert found.dtype == torch.float32
    assert torch.equal(found, digits.images.flatten(1).float() / 255)


def test_the_last_batch_is_kept_and_batches_change_nothing(small, digits):
    encoder = small().eval_encoder()
    whole = features(encoder, digits.images[:101], CPU, batch_size=101)
    torch.testing.assert_close(features(encoder, digits.images[:101], CPU, batch_size=10), whole)


def test_memory_mapped_images_are_read(pixels, digits, tmp_path):
    np.save(tmp_path / "images.npy", digits.images.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="r+"))
    assert torch.equal(features(pixels, mapped, CPU), features(pixels, digits.images, CPU))


def test_modes_are_restored_after_an_error(small):
    algorithm = small()
    before = [part.training for part in algorithm.modules()]

    def fail() -> None:
        with evaluating(algorithm):
            assert not any(part.training for part in algorithm.modules())
            assert not torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [part.training for part in algorithm.modules()] == before
    assert torch.is_grad_enabled()


def test_for_a_split_by_images_the_gallery_is_train_and_validation(pixels, by_images):
    sets = gallery_and_queries(pixels, by_images, CPU)
    learned = torch.cat([by_images.train.images, by_images.validation.images])
    assert torch.equal(sets.gallery, features(pixels, learned, CPU))
    assert torch.equal(sets.gallery_labels, torch.cat([by_images.train.labels, by_images.validation.labels]))
    assert sets.validation.nonzero()[:, 0].tolist() == list(range(1000, 1200))
    assert torch.equal(sets.queries, features(pixels, by_images.test.images, CPU))
    assert torch.equal(sets.query_labels, by_images.test.labels)


def test_without_a_validation_split_a_share_of_each_class_of_the_gallery_replaces_it(pixels, by_images):
    sets = gallery_and_queries(pixels, replace(by_images, validation=None), CPU)
    assert len(sets.gallery) == 1000
    part, whole = sets.gallery_labels[sets.validation].bincount(), sets.gallery_labels.bincount()
    assert torch.equal(part, (whole * 0.2).round().long())


def test_for_a_split_by_classes_the_held_out_classes_are_halved(pixels, by_classes):
    sets = gallery_and_queries(pixels, by_classes, CPU)
    test = by_classes.test
    assert len(sets.gallery) + len(sets.queries) == len(test)
    assert (sets.gallery_labels.bincount() - sets.query_labels.bincount()).abs().max() <= 1
    together = torch.cat([sets.gallery, sets.queries]).unique(dim=0)
    assert torch.equal(together, features(pixels, test.images, CPU).unique(dim=0))
    assert sets.n_classes == 5
    found = describe(by_classes)
    assert (found["gallery_size"], found["query_size"]) == (len(sets.gallery), len(sets.queries))


def test_selection_uses_validation_and_never_sees_test(pixels, by_images):
    sets = gallery_and_queries(pixels, by_images.for_selection(), CPU)
    assert len(sets.gallery) == 1000
    assert torch.equal(sets.query_labels, by_images.validation.labels)


def test_a_share_is_the_same_each_time_and_leaves_some_of_each_class():
    labels = torch.tensor([0, 1, 0, 2, 1, 1, 0, 0, 1, 1, 1])
    for fraction in (0.01, 0.5, 0.99):
        chosen = share(labels, fraction, "a")
        assert torch.equal(chosen, share(labels, fraction, "a"))
        for label in (0, 1):
            assert 0 < chosen[labels == label].sum() < (labels == label).sum()
        assert not chosen[3]  # the only one of its class


def test_inside_remembered_a_dataset_is_encoded_once_per_encoder(small, by_images):
    first, second = small().eval_encoder(), small().eval_encoder()
    passes = []
    first.register_forward_hook(lambda *_: passes.append("first"))
    second.register_forward_hook(lambda *_: passes.append("second"))
    with remembered():
        for encoder in (first, first, second):
            dataset_features(encoder, by_images.validation, CPU)
            dataset_features(encoder, by_images.validation, CPU)
    assert passes == ["first", "second"]
    dataset_features(first, by_images.validation, CPU)
    assert len(passes) == 3


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_labels_is_refused_with_a_remedy(pixels, by_images, split):
    unlabelled = replace(by_images, **{split: replace(getattr(by_images, split), labels=None)})
    with pytest.raises(ValueError, match=rf"digits/{split} has no labels.*eval=\[\]"):
        gallery_and_queries(pixels, unlabelled, CPU)


def test_features_that_are_not_finite_are_refused(small, by_images):
    encoder = small().eval_encoder()
    with torch.no_grad():
        encoder.backbone[0].bias[0] = float("nan")
    with pytest.raises(ValueError, match="features of digits/test are not finite"):
        dataset_features(encoder, by_images.test, CPU)


def test_pixels_have_nothing_to_train(by_images):
    algorithm = RawPixels((1, 8, 8))
    assert list(algorithm.parameters()) == []
    assert algorithm.eval_encoder().out_features == 64
    with pytest.raises(TypeError, match="no parameters"):
        algorithm.training_step(None, None)


def test_only_rows_that_are_needed_and_missing_are_computed(small, by_images):
    encoder, seen = small().eval_encoder(), []
    encoder.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    dataset, few = by_images.validation, torch.tensor([3, 50, 51])
    whole = features(encoder, dataset.images, CPU)
    seen.clear()
    with remembered():
        found = features_at(encoder, dataset, few, CPU)
        torch.testing.assert_close(found[few], whole[few])
        assert not found[[0, 52]].any()
        more = features_at(encoder, dataset, torch.tensor([7, 50]), CPU)
        torch.testing.assert_close(more[[3, 7, 50, 51]], whole[[3, 7, 50, 51]])
        features_at(encoder, dataset, torch.tensor([7, 3]), CPU)
        torch.testing.assert_close(dataset_features(encoder, dataset, CPU), whole)
        features_at(encoder, dataset, few, CPU)
    assert seen == [3, 1, 196]


def test_with_a_share_of_the_labels_other_images_are_not_encoded(small, by_images):
    encoder, seen = small().eval_encoder(), []
    encoder.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    sets = gallery_and_queries(encoder, by_images, CPU, labels=0.1)
    assert sum(seen) == len(sets.gallery) + len(sets.queries)
    assert len(sets.gallery) == pytest.approx(120, abs=5)
    found = gallery_indices(by_images, 0.1)
    images = torch.cat([by_images.train.images, by_images.validation.images])[found.gallery]
    torch.testing.assert_close(sets.gallery, features(encoder, images, CPU))
