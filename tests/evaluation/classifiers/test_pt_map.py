"""PT-MAP compared with its algorithm in loops, and what it assumes of the queries."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from feature_tasks import embedded, of_pixels, scores

from ssl_runner.evaluation.classifiers.centroid import Centroid
from ssl_runner.evaluation.classifiers.pt_map import PTMap

PAPER = (0.5, 10.0, 0.2, 20, 100)


def powered(points):
    raised = (points + 1e-6) ** 0.5
    return raised / np.linalg.norm(raised, axis=1, keepdims=True)


def centred(points):
    points = points - points.mean(axis=0)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def transported(costs, rows, columns):
    """Sinkhorn's algorithm by alternating normalisation, to convergence."""
    plan = np.exp(-costs)
    for _ in range(5_000):
        before = plan
        plan = plan * (rows / plan.sum(axis=1))[:, None]
        plan = plan * (columns / plan.sum(axis=0))[None]
        if np.abs(plan - before).max() < 1e-11:
            break
    return plan


def naive(support, labels, query, n_way, strength):
    """Algorithm 1 of the paper for one task."""
    support, query = centred(powered(support)), centred(powered(query))
    centers = np.stack([support[labels == label].mean(axis=0) for label in range(n_way)])
    rows, columns = np.ones(len(query)), np.full(n_way, len(query) / n_way)

    def plan():
        costs = np.array([[strength * np.sum((point - center) ** 2) for center in centers] for point in query])
        return transported(costs, rows, columns)

    for _ in range(20):
        shares = plan()
        for label in range(n_way):
            own = support[labels == label]
            estimate = (own.sum(axis=0) + shares[:, label] @ query) / (len(own) + shares[:, label].sum())
            centers[label] = centers[label] + 0.2 * (estimate - centers[label])
    return plan()


@pytest.mark.parametrize(("strength", "iterations", "tolerance"), [(2.0, 200, 1e-9), (10.0, 100, 5e-3)])
@pytest.mark.parametrize(("shots", "queries"), [(1, 5), (3, 4)])
def test_assignments_are_those_of_the_papers_algorithm(shots, queries, strength, iterations, tolerance, digits):
    """With the paper's strength of 10, Sinkhorn's iterations converge slowly; with 2, agreement can be told exactly."""
    tasks = of_pixels(digits, 4, shots, queries, n=2)
    found = scores(PTMap(0.5, strength, 0.2, 20, iterations), tasks).exp().numpy()
    for task in range(len(found)):
        one = (part[task].numpy() for part in (tasks.support, tasks.labels, tasks.query))
        expected = naive(*one, 4, strength)
        np.testing.assert_allclose(found[task], expected, rtol=0, atol=tolerance)
        assert (found[task].argmax(axis=1) == expected.argmax(axis=1)).all()


def test_it_helps_with_few_labels_and_balanced_queries(digits):
    tasks = of_pixels(digits, 5, 1, queries=15, n=40)
    alone, together = (
        (scores(one, tasks).argmax(dim=2) == tasks.query_labels).double().mean() for one in (Centroid(), PTMap(*PAPER))
    )
    assert together > alone + 0.05


def test_each_class_gets_its_share_of_the_queries_even_if_none_belongs_to_it(digits):
    tasks = of_pixels(digits, 3, 5, queries=12, n=5)
    one_class = replace(tasks, query=tasks.query[:, :12], query_labels=tasks.query_labels[:, :12])
    shares = scores(PTMap(*PAPER), one_class).exp()
    assert torch.allclose(shares.sum(dim=1), torch.full((5, 3), 4.0, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(shares.sum(dim=2), torch.ones(5, 12, dtype=torch.float64), atol=0.02)
    right = (shares.argmax(dim=2) == 0).double().mean()
    assert (scores(Centroid(), one_class).argmax(dim=2) == 0).double().mean() > 0.8 > 0.6 > right
    assert "assumes equally many queries of each class" in PTMap(*PAPER).recipe()


def test_the_power_transform_keeps_signs_and_is_the_papers_from_0_on():
    classifier = PTMap(0.5, 10.0, 0.2, 20, 100)
    points = torch.tensor([[0.0, 4.0, 9.0], [-4.0, 0.0, 9.0]], dtype=torch.float64)
    found = classifier.transformed(points)
    np.testing.assert_allclose(found[:1], powered(points[:1].numpy()), atol=1e-12)
    np.testing.assert_allclose(found[1], powered(points[1:].abs().numpy())[0] * [-1, 1, 1], atol=1e-12)
    np.testing.assert_allclose(found.norm(dim=1), 1.0)
    assert torch.equal(embedded(classifier, points[None])[0], found)


def test_a_large_strength_neither_overflows_nor_vanishes(digits):
    tasks = of_pixels(digits, 5, 1)
    tasks = replace(tasks, support=tasks.support.float(), query=tasks.query.float())
    assert scores(PTMap(0.5, 1000.0, 0.2, 20, 100), tasks).exp().isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: 0.0}, r"power=0\.0; give a number above 0"),
        ({1: -1.0}, r"strength=-1\.0; give a number above 0"),
        ({2: 1.5}, r"rate=1\.5; give a share in \(0, 1\]"),
        ({3: 0}, "steps=0; give at least 1"),
        ({4: 0}, "sinkhorn_iterations=0; give at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PTMap(*(change.get(place, value) for place, value in enumerate(PAPER)))
