"""The linear probe compared with scikit-learn; test data affects nothing."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ssl_runner.evaluation import gallery, linear_probe
from ssl_runner.evaluation.linear_probe import LinearProbe, Regression, standardise
from ssl_runner.evaluation.raw_pixels import RawPixels

CPU = torch.device("cpu")
GRID = [0.1, 0.01, 0.001]


@pytest.fixture
def probe() -> LinearProbe:
    return LinearProbe(GRID, 500, 1.0)


@pytest.mark.parametrize("regularisation", [0.1, 0.01, 0.001])
def test_the_solution_equals_scikit_learns(digits, regularisation, monkeypatch):
    monkeypatch.setattr(linear_probe, "TOLERANCE", 1e-7)
    train, test = standardise(digits.images[:600].flatten(1).double(), digits.images[600:].flatten(1).double())
    labels = digits.labels[:600]
    weights = Regression(train, labels, 10, 2000).fit(regularisation).numpy()
    reference = LogisticRegression(C=1 / (regularisation * 600), solver="newton-cg", tol=1e-9, max_iter=500).fit(
        train, labels
    )
    np.testing.assert_allclose(weights[:-1].T, reference.coef_, atol=1e-4)
    # a constant added to all classes' biases changes nothing
    biases = weights[-1] - weights[-1].mean()
    np.testing.assert_allclose(biases, reference.intercept_ - reference.intercept_.mean(), atol=1e-3)
    scores = test.numpy() @ weights[:-1] + weights[-1]
    assert (scores.argmax(1) == reference.predict(test)).mean() > 0.999


def test_the_tolerance_in_float32_is_enough(digits):
    train, test = standardise(digits.images[:600].flatten(1).float(), digits.images[600:].flatten(1).float())
    labels = digits.labels[:600]
    weights = Regression(train, labels, 10, 500).fit(0.001).numpy()
    reference = LogisticRegression(C=1 / (0.001 * 600), tol=1e-8, max_iter=5000).fit(train.double(), labels)

    def objective(coefficients, biases) -> float:
        loss = log_loss(labels, np.exp(_log_softmax(train.double().numpy() @ coefficients.T + biases)))
        return loss + 0.0005 * (coefficients**2).sum()

    best = objective(reference.coef_, reference.intercept_)
    assert objective(weights[:-1].T, weights[-1]) == pytest.approx(best, rel=1e-3)
    found = (test.numpy() @ weights[:-1] + weights[-1]).argmax(1)
    expected = reference.score(test, digits.labels[600:])
    assert (found == digits.labels[600:].numpy()).mean() == pytest.approx(expected, abs=0.003)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def test_a_warm_start_does_not_change_the_solution(digits, monkeypatch):
    monkeypatch.setattr(linear_probe, "TOLERANCE", 1e-7)
    train, _ = standardise(digits.images[:300].flatten(1).double(), digits.images[:1].flatten(1).double())
    regression = Regression(train, digits.labels[:300], 10, 500)
    cold, warm = regression.fit(0.01), regression.fit(0.01, regression.fit(0.1))
    torch.testing.assert_close(warm, cold, atol=1e-4, rtol=0)


def test_the_curvature_that_a_fit_has_seen_spares_the_next_strength_evaluations(digits, monkeypatch):
    monkeypatch.setattr(linear_probe, "TOLERANCE", 1e-5)
    train, _ = standardise(digits.images[:1000].flatten(1).double(), digits.images[:1].flatten(1).double())
    known, fresh = (Regression(train, digits.labels[:1000], 10, 500) for _ in range(2))
    start, calls, original = known.fit(0.01), [], Regression._loss
    monkeypatch.setattr(Regression, "_loss", lambda self, *given: calls.append(self) or original(self, *given))
    found = [regression.fit(0.003, start) for regression in (known, fresh)]
    assert calls.count(known) < 0.85 * calls.count(fresh)
    one, other = (known._loss(linear_probe._rotate(known.axes.T, weights), 0.003)[0] for weights in found)
    assert one == pytest.approx(other, rel=1e-6)


def test_what_a_fit_has_seen_adds_up_to_its_way_and_the_change_of_the_cross_entropys_gradient(digits):
    train, _ = standardise(digits.images[:300].flatten(1).double(), digits.images[:1].flatten(1).double())
    regression = Regression(train, digits.labels[:300], 10, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten iterations, fewer than are kept, lead from 0 to the end
        end = linear_probe._rotate(regression.axes.T, regression.fit(0.01))
    way, change = (sum(parts) for parts in zip(*regression.seen, strict=True))
    torch.testing.assert_close(way, end)
    before, after = (regression._loss(weights, 0.0)[1] for weights in (torch.zeros_like(end), end))
    torch.testing.assert_close(change, after - before)


def test_the_gradient_equals_autograds():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator)
    weights = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    regression = Regression(features, labels, 3, 10)
    loss = torch.nn.functional.cross_entropy(features @ regression.axes @ weights[:-1] + weights[-1], labels)
    loss = loss + 0.25 * weights[:-1].square().sum()
    (expected,) = torch.autograd.grad(loss, weights)
    value, found = regression._loss(weights.detach(), 0.5)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(found, expected)


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


def test_constant_features_are_removed():
    gallery = torch.full((50, 2), 0.1)
    gallery[:, 1] = torch.randn(50, generator=torch.Generator().manual_seed(0))
    standard, queries = standardise(gallery, torch.full((3, 2), 7.0))
    assert standard[:, 0].abs().max() == 0
    assert queries[:, 0].abs().max() == 0
    assert standard[:, 1].std(correction=0).item() == pytest.approx(1, rel=1e-5)


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


def test_thousands_of_classes_take_tens_of_evaluations_to_reach_the_minimum(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(500, 24, generator=generator)
    rows = (centers.repeat(3, 1) + 0.7 * torch.randn(1500, 24, generator=generator)) @ torch.randn(
        24, 48, generator=generator
    )
    features, labels = standardise(rows, rows[:1])[0], torch.arange(500).repeat(3)
    calls, original = [0], Regression._loss

    def counted(self, *arguments):
        calls[0] += 1
        return original(self, *arguments)

    monkeypatch.setattr(Regression, "_loss", counted)
    weights = Regression(features, labels, 500, 500).fit(0.01)
    assert calls[0] < 40
    exact = Regression(features.double(), labels, 500, 500)
    monkeypatch.setattr(linear_probe, "TOLERANCE", 1e-7)
    least = exact.fit(0.01)
    rotated = [linear_probe._rotate(exact.axes.T, one.double()) for one in (weights, least)]
    found, best = (exact._loss(one, 0.01)[0] for one in rotated)
    assert best <= found <= best * (1 + 1e-5)


def test_a_minimum_is_found_even_if_the_first_step_is_far_too_long():
    matrix = torch.diag(torch.tensor([1.0, 30.0, 300.0], dtype=torch.float64))
    target = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)

    def bowl(place):
        off = place - target
        return float(off @ matrix @ off) / 2 + 1, matrix @ off

    found, value, gradient = linear_probe.minimise(bowl, torch.zeros(3, dtype=torch.float64), 200)
    assert value == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found, target, atol=5e-3, rtol=0)
    assert gradient.norm() < 1e-2
