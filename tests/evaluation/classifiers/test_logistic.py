"""Logistic regression on tasks, compared with scikit-learn in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from feature_tasks import of_pixels, scores
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge

from ssl_runner.evaluation.classifiers.logistic import Logistic
from ssl_runner.evaluation.classifiers.ridge import Ridge


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("ways", "shots"), [(3, 1), (5, 1), (5, 5), (10, 5)])
def test_its_probabilities_are_those_of_scikit_learn(ways, shots, strength, digits):
    tasks = of_pixels(digits, ways, shots)
    found = scores(Logistic(strength), tasks).softmax(dim=2).numpy()
    for task in range(len(found)):
        support, query = (F.normalize(part[task], dim=1).numpy() for part in (tasks.support, tasks.query))
        model = LogisticRegression(C=strength, tol=1e-12, max_iter=100_000).fit(support, tasks.labels[task].numpy())
        np.testing.assert_allclose(found[task], model.predict_proba(query), atol=1e-6)


def test_it_solves_unequal_numbers_of_images_too_where_the_bias_matters(digits):
    tasks = of_pixels(digits, 3, 4)
    kept = torch.tensor([0, 1, 2, 3, 4, 8])  # four of one class, one of each other
    tasks = replace(tasks, support=tasks.support[:, kept], labels=tasks.labels[:, kept])
    found = scores(Logistic(1.0), tasks).softmax(dim=2).numpy()
    support, query = (F.normalize(part[0], dim=1).numpy() for part in (tasks.support, tasks.query))
    model = LogisticRegression(C=1.0, tol=1e-12, max_iter=100_000).fit(support, tasks.labels[0].numpy())
    np.testing.assert_allclose(found[0], model.predict_proba(query), atol=1e-6)


@pytest.mark.parametrize("strength", [1.0, 100.0])
def test_the_gradient_vanishes_in_large_tasks_and_nearly_in_single_precision(strength):
    """20 ways and 5 shots of wide features with a large common part, as contrastive encoders have."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20).repeat_interleave(5).expand(2, -1)
    centers = torch.rand(2, 20, 256, generator=generator, dtype=torch.float64) + 2
    noise = torch.randn(2, 100, 256, generator=generator, dtype=torch.float64)
    support = F.normalize(centers.gather(1, labels[..., None].expand(-1, -1, 256)) + 0.5 * noise, dim=2)
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 2e-3)):
        exact = support.to(dtype)
        logits = Logistic(strength).scores(exact, labels, torch.cat([exact, torch.zeros_like(exact[:, :1])], 1), 20)
        bias, logits = logits[:, -1:], logits[:, :-1]
        residuals = strength * (logits.softmax(dim=2) - F.one_hot(labels, 20))
        # W = -X^T residuals at the optimum, so X W + b must give the logits, and the bias has no gradient
        expected = -(exact @ exact.mT) @ residuals + bias
        assert (expected - logits).abs().max() < tolerance * max(1, strength)
        assert residuals.sum(dim=1).abs().max() < tolerance * max(1, strength)


@pytest.mark.parametrize("shots", [1, 4])
def test_ridge_is_that_of_scikit_learn_on_normalised_features(shots, digits):
    tasks = of_pixels(digits, 5, shots)
    found = scores(Ridge(0.3), tasks)
    for task in range(len(found)):
        support, query = (F.normalize(part[task], dim=1).numpy() for part in (tasks.support, tasks.query))
        spread = np.square(support - support.mean(axis=0)).sum(axis=1).mean()
        model = SklearnRidge(alpha=0.3 * spread, solver="svd").fit(support, np.eye(5)[tasks.labels[task]])
        np.testing.assert_allclose(found[task], model.predict(query), atol=1e-9)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_strengths_that_make_no_sense_are_refused(value):
    with pytest.raises(ValueError, match=r"inverse_regularisation=.*; give a number above 0"):
        Logistic(value)
    with pytest.raises(ValueError, match=r"share=.*; give a number above 0"):
        Ridge(value)
