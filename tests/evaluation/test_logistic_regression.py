"""Logistic regression compared with scikit-learn's."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ssl_runner.evaluation import logistic_regression
from ssl_runner.evaluation.logistic_regression import Regression, standardise


@pytest.mark.parametrize("regularisation", [0.1, 0.01, 0.001])
def test_the_solution_equals_scikit_learns(digits, regularisation, monkeypatch):
    monkeypatch.setattr(logistic_regression, "TOLERANCE", 1e-7)
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
    monkeypatch.setattr(logistic_regression, "TOLERANCE", 1e-7)
    train, _ = standardise(digits.images[:300].flatten(1).double(), digits.images[:1].flatten(1).double())
    regression = Regression(train, digits.labels[:300], 10, 500)
    cold, warm = regression.fit(0.01), regression.fit(0.01, regression.fit(0.1))
    torch.testing.assert_close(warm, cold, atol=1e-4, rtol=0)


def test_the_curvature_that_a_fit_has_seen_spares_the_next_strength_evaluations(digits, monkeypatch):
    monkeypatch.setattr(logistic_regression, "TOLERANCE", 1e-5)
    train, _ = standardise(digits.images[:1000].flatten(1).double(), digits.images[:1].flatten(1).double())
    known, fresh = (Regression(train, digits.labels[:1000], 10, 500) for _ in range(2))
    start, calls, original = known.fit(0.01), [], Regression.loss
    monkeypatch.setattr(Regression, "loss", lambda self, *given: calls.append(self) or original(self, *given))
    found = [regression.fit(0.003, start) for regression in (known, fresh)]
    assert calls.count(known) < 0.85 * calls.count(fresh)
    one, other = (known.loss(logistic_regression._rotate(known.axes.T, weights), 0.003)[0] for weights in found)
    assert one == pytest.approx(other, rel=1e-6)


def test_what_a_fit_has_seen_adds_up_to_its_way_and_the_change_of_the_cross_entropys_gradient(digits):
    train, _ = standardise(digits.images[:300].flatten(1).double(), digits.images[:1].flatten(1).double())
    regression = Regression(train, digits.labels[:300], 10, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten iterations, fewer than are kept, lead from 0 to the end
        end = logistic_regression._rotate(regression.axes.T, regression.fit(0.01))
    way, change = (sum(parts) for parts in zip(*regression.seen, strict=True))
    torch.testing.assert_close(way, end)
    before, after = (regression.loss(weights, 0.0)[1] for weights in (torch.zeros_like(end), end))
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
    value, found = regression.loss(weights.detach(), 0.5)
    assert value == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(found, expected)


def test_constant_features_are_removed():
    gallery = torch.full((50, 2), 0.1)
    gallery[:, 1] = torch.randn(50, generator=torch.Generator().manual_seed(0))
    standard, queries = standardise(gallery, torch.full((3, 2), 7.0))
    assert standard[:, 0].abs().max() == 0
    assert queries[:, 0].abs().max() == 0
    assert standard[:, 1].std(correction=0).item() == pytest.approx(1, rel=1e-5)


def test_thousands_of_classes_take_tens_of_evaluations_to_reach_the_minimum(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(500, 24, generator=generator)
    rows = (centers.repeat(3, 1) + 0.7 * torch.randn(1500, 24, generator=generator)) @ torch.randn(
        24, 48, generator=generator
    )
    features, labels = standardise(rows, rows[:1])[0], torch.arange(500).repeat(3)
    calls, original = [0], Regression.loss

    def counted(self, *arguments):
        calls[0] += 1
        return original(self, *arguments)

    monkeypatch.setattr(Regression, "loss", counted)
    weights = Regression(features, labels, 500, 500).fit(0.01)
    assert calls[0] < 40
    exact = Regression(features.double(), labels, 500, 500)
    monkeypatch.setattr(logistic_regression, "TOLERANCE", 1e-7)
    least = exact.fit(0.01)
    rotated = [logistic_regression._rotate(exact.axes.T, one.double()) for one in (weights, least)]
    found, best = (exact.loss(one, 0.01)[0] for one in rotated)
    assert best <= found <= best * (1 + 1e-5)


def test_a_minimum_is_found_even_if_the_first_step_is_far_too_long():
    matrix = torch.diag(torch.tensor([1.0, 30.0, 300.0], dtype=torch.float64))
    target = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)

    def bowl(place):
        off = place - target
        return float(off @ matrix @ off) / 2 + 1, matrix @ off

    found, value, gradient = logistic_regression.minimise(bowl, torch.zeros(3, dtype=torch.float64), 200)
    assert value == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found, target, atol=5e-3, rtol=0)
    assert gradient.norm() < 1e-2
