"""The linear probe compared with scikit-learn; test data affects nothing."""

import warnings
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ssl_runner.evaluation import gallery, linear_probe
from ssl_runner.evaluation.linear_probe import LinearProbe
from ssl_runner.evaluation.logistic_regression import standardise
from ssl_runner.evaluation.raw_pixels import RawPixels

CPU = torch.device("cpu")
GRID = [0.1, 0.01, 0.001]


@pytest.fixture
def probe() -> LinearProbe:
    return LinearProbe(GRID, 500, 1.0)


def test_test_data_does_not_affect_the_choice(small, by_images, probe):
    algorithm = small()
    chosen = probe(algorithm, by_images, CPU)["linear_probe/regularisation"]
    seen = []
    for images, labels in [
        (by_images.test.images, by_images.test.labels.flip(0)),
        (255 - by_images.test.images, by_images.test.labels),
    ]:
        other = replace(by_images, test=replace(by_images.test, images=images, labels=labels))
        scores = probe(algorithm, other, CPU)
        assert scores["linear_probe/regularisation"] == chosen
        seen.append(scores["linear_probe/top1"])
    assert seen[0] < 0.3, "the labels were shuffled, so they are used for the score"


def test_validation_data_affects_the_choice(by_images):
    # Noise for labels on validation: whatever predicts its majority best is chosen, not what suits test.
    generator = torch.Generator().manual_seed(0)
    chosen = set()
    for _ in range(5):
        noise = torch.randint(0, 10, (200,), generator=generator)
        splits = replace(by_images, validation=replace(by_images.validation, labels=noise))
        sets = linear_probe.gallery_and_queries(RawPixels((1, 8, 8)).eval_encoder(), splits, CPU)
        value, _ = LinearProbe(GRID, 500, 1.0).choose(
            sets.gallery, sets.gallery_labels, sets.validation, sets.n_classes
        )
        chosen.add(value)
    assert len(chosen) > 1


def test_ties_are_decided_for_the_strongest_regularisation():
    # Two separable points a class: every strength is right.
    gallery = torch.tensor([[1.0], [-1.0]]).repeat(4, 1)
    labels = torch.tensor([0, 1]).repeat(4)
    validation = torch.arange(8) >= 4
    assert LinearProbe([0.001, 0.1, 0.01], 100, 1.0).choose(gallery, labels, validation, 2)[0] == 0.1


def test_the_scored_classifier_was_fitted_on_train_and_validation_together(by_images):
    scores = LinearProbe([0.01], 500, 1.0)(RawPixels((1, 8, 8)), by_images, CPU)
    gallery = torch.cat([by_images.train.images, by_images.validation.images]).flatten(1).double()
    train, test = standardise(gallery, by_images.test.images.flatten(1).double())
    labels = torch.cat([by_images.train.labels, by_images.validation.labels])
    reference = LogisticRegression(C=1 / (0.01 * 1200), tol=1e-6, max_iter=1000).fit(train, labels)
    assert scores["linear_probe/top1"] == pytest.approx(reference.score(test, by_images.test.labels), abs=0.002)


def test_held_out_classes_are_probed_on_their_own_halves(by_classes, probe):
    assert probe(RawPixels((1, 8, 8)), by_classes, CPU)["linear_probe/top1"] > 0.95
    assert probe.protocol(by_classes)["classes"] == "unseen"


def test_collapsed_features_predict_the_largest_class_without_a_warning():
    gallery, labels = torch.ones(40, 3), torch.tensor([0, 1, 1, 1]).repeat(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, weights = LinearProbe(GRID, 100, 1.0).choose(gallery, labels, torch.arange(40) >= 20, 2)
    assert weights[-1].argmax() == 1


def test_too_few_iterations_warn(by_images):
    with pytest.warns(RuntimeWarning, match=r"not converged.*raise eval\.linear_probe\.max_iterations=2"):
        LinearProbe([0.001], 2, 1.0)(RawPixels((1, 8, 8)), by_images, CPU)


@pytest.mark.parametrize("values", [[], [0.0], [0.1, -1.0]])
def test_senseless_regularisations_are_refused(values):
    with pytest.raises(ValueError, match="give positive numbers"):
        LinearProbe(values, 100, 1.0)


def test_only_a_share_of_the_labels_is_learned_from(small, by_images):
    # Noise in place of every other image, of train and of validation: nothing of it is seen.
    algorithm, found = small(), gallery.gallery_indices(by_images, 0.1)
    unseen = torch.ones(1200, dtype=torch.bool)
    unseen[found.gallery] = False
    images = torch.cat([by_images.train.images, by_images.validation.images])
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[unseen] = noise[unseen]
    other = replace(
        by_images,
        train=replace(by_images.train, images=images[:1000]),
        validation=replace(by_images.validation, images=images[1000:]),
    )
    probe = LinearProbe(GRID, 500, 0.1)
    assert probe(algorithm, other, CPU) == probe(algorithm, by_images, CPU)
    assert LinearProbe(GRID, 500, 1.0)(algorithm, other, CPU) != LinearProbe(GRID, 500, 1.0)(algorithm, by_images, CPU)


def test_with_a_share_the_scored_classifier_was_fitted_on_the_whole_share(by_images):
    scores = LinearProbe([0.01], 500, 0.1)(RawPixels((1, 8, 8)), by_images, CPU)
    sets = gallery.gallery_indices(by_images, 0.1)
    images = torch.cat([by_images.train.images, by_images.validation.images])[sets.gallery]
    train, test = standardise(images.flatten(1).double(), by_images.test.images.flatten(1).double())
    reference = LogisticRegression(C=1 / (0.01 * len(train)), tol=1e-6, max_iter=1000).fit(train, sets.gallery_labels)
    expected = reference.score(test, by_images.test.labels)
    assert scores["linear_probe_10pct/top1"] == pytest.approx(expected, abs=0.004)
    assert scores["linear_probe_10pct/regularisation"] == 0.01


def test_with_one_image_per_class_the_strongest_regularisation_is_used(by_images):
    scores = LinearProbe([0.001, 0.1], 500, 0.001)(RawPixels((1, 8, 8)), by_images, CPU)
    assert scores["linear_probe_0.1pct/regularisation"] == 0.1
    assert 0.3 < scores["linear_probe_0.1pct/top1"] < 0.8


def test_a_share_of_the_labels_is_named_in_keys_and_protocol_and_scores_less(by_images):
    few, all_labels = LinearProbe(GRID, 500, 0.01), LinearProbe(GRID, 500, 1.0)
    assert few.keys() == ["linear_probe_1pct/top1", "linear_probe_1pct/regularisation"]
    said = few.protocol(by_images)
    assert (said["labels"], said["labelled_images"], said["gallery_size"]) == (0.01, 10, 1200)
    assert said["validation"] == "a fifth of each class of the labelled images"
    assert "labels" not in all_labels.protocol(by_images)
    pixels = RawPixels((1, 8, 8))
    few_score = few(pixels, by_images, CPU)["linear_probe_1pct/top1"]
    assert few_score < all_labels(pixels, by_images, CPU)["linear_probe/top1"]


@pytest.mark.parametrize("labels", [0.0, -0.1, 1.01])
def test_a_share_outside_0_to_1_is_refused(labels):
    with pytest.raises(ValueError, match=r"labels=.*give a share of the labels in \(0, 1\]"):
        LinearProbe(GRID, 500, labels)
