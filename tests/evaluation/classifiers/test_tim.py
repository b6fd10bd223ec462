"""Transductive information maximisation, compared with its equations in loops over tasks, images and classes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from feature_tasks import embedded, of_pixels, scores

from ssl_runner.evaluation.classifiers.tim import Tim, TimAdm, probabilities

TAU, LAMBDA, ALPHA = 15.0, 0.1, 0.1


def posterior(point, weights):
    """p_k of eq. 1."""
    powers = [math.exp(-TAU / 2 * float(np.sum((weight - point) ** 2))) for weight in weights]
    return [power / sum(powers) for power in powers]


def loss_of(weights, support, labels, query):
    """Eq. 3 of one task, by torch so that it can be differentiated, one image at a time."""

    def log_p(point):
        return torch.log_softmax(torch.stack([-TAU / 2 * (weight - point).square().sum() for weight in weights]), 0)

    entropy = -sum(log_p(point)[label] for point, label in zip(support, labels, strict=True)) / len(support)
    logs = [log_p(point) for point in query]
    marginal = sum(one.exp() for one in logs) / len(logs)
    of_marginal = -sum(share * share.log() for share in marginal)
    conditional = -sum((one.exp() * one).sum() for one in logs) / len(logs)
    return LAMBDA * entropy - of_marginal + ALPHA * conditional


def class_means_of(support, labels, n_way):
    return torch.stack([support[labels == label].mean(0) for label in range(n_way)])


@pytest.mark.parametrize("shots", [1, 3])
def test_gradient_descent_is_adam_on_the_loss_of_each_task(shots, digits):
    tasks, steps, lr = of_pixels(digits, 3, shots, n=2), 12, 0.02
    found = scores(Tim(steps, lr, TAU, LAMBDA, ALPHA), tasks)
    for task in range(2):
        support, query = (F.normalize(part[task], dim=1) for part in (tasks.support, tasks.query))
        weights = class_means_of(support, tasks.labels[task], 3).requires_grad_()
        optimizer = torch.optim.Adam([weights], lr=lr)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(weights, support, tasks.labels[task], query).backward()
            optimizer.step()
        expected = [posterior(point.numpy(), weights.detach().numpy()) for point in query]
        np.testing.assert_allclose(found[task].exp(), expected, atol=1e-9)


@pytest.mark.parametrize("shots", [1, 3])
def test_closed_form_steps_are_those_of_proposition_1(shots, digits):
    tasks, steps = of_pixels(digits, 3, shots, n=2), 5
    found = scores(TimAdm(steps, TAU, LAMBDA, ALPHA), tasks)
    for task in range(2):
        support, query = (F.normalize(part[task], dim=1).numpy() for part in (tasks.support, tasks.query))
        labels = tasks.labels[task].tolist()
        weights = class_means_of(torch.from_numpy(support), tasks.labels[task], 3).numpy()
        for _ in range(steps):
            weights = proposition_1(weights, support, labels, query)
        np.testing.assert_allclose(found[task].exp(), [posterior(point, weights) for point in query], atol=1e-9)


def proposition_1(weights, support, labels, query):
    n_way = len(weights)
    p_support, p_query = ([posterior(point, weights) for point in part] for part in (support, query))
    sums = [sum(p[k] ** (1 + ALPHA) for p in p_query) for k in range(n_way)]
    q = [[p[k] ** (1 + ALPHA) / math.sqrt(sums[k]) for k in range(n_way)] for p in p_query]
    q = [[value / sum(row) for value in row] for row in q]
    found = np.zeros_like(weights)
    for k in range(n_way):
        above, below = 0.0, 0.0
        for point, label, p in zip(support, labels, p_support, strict=True):
            above = above + LAMBDA / (1 + ALPHA) * ((label == k) * point + p[k] * (weights[k] - point))
            below += LAMBDA / (1 + ALPHA) * (label == k)
        for point, target, p in zip(query, q, p_query, strict=True):
            share = len(support) / len(query)
            above = above + share * (target[k] * point + p[k] * (weights[k] - point))
            below += share * target[k]
        found[k] = above / below
    return found


def mutual_information(logs):
    """H of the mean prediction minus the mean H of a prediction, from (T, Q, n_way)."""
    marginal = logs.exp().mean(dim=1)
    return (logs.exp() * logs).sum(dim=2).mean(dim=1) - (marginal * marginal.log()).sum(dim=1)


@pytest.mark.parametrize("classifier", [Tim(200, 0.005, TAU, LAMBDA, ALPHA), TimAdm(150, TAU, LAMBDA, ALPHA)])
def test_the_information_in_the_predictions_rises_in_every_task_and_helps(classifier, digits):
    tasks = of_pixels(digits, 5, 1, queries=15, n=40)
    support, query = (embedded(classifier, part) for part in (tasks.support, tasks.query))
    means = torch.stack([class_means_of(*pair, 5) for pair in zip(support, tasks.labels, strict=True)])
    before, after = probabilities(query, means, TAU), scores(classifier, tasks)
    assert (mutual_information(after) > mutual_information(before)).all()
    right = [(one.argmax(dim=2) == tasks.query_labels).double().mean() for one in (before, after)]
    assert right[1] > right[0] + 0.02


def test_both_solvers_find_predictions_of_nearly_the_same_loss(digits):
    tasks = of_pixels(digits, 5, 5, queries=15, n=6)
    slow, fast = Tim(1000, 0.005, TAU, LAMBDA, ALPHA), TimAdm(150, TAU, LAMBDA, ALPHA)
    agree = scores(slow, tasks).argmax(dim=2) == scores(fast, tasks).argmax(dim=2)
    assert agree.double().mean() > 0.9


def test_a_shortened_one_takes_a_single_step(digits):
    tasks = of_pixels(digits, 3, 1)
    for long in (Tim(1000, 0.01, TAU, LAMBDA, ALPHA), TimAdm(1000, TAU, LAMBDA, ALPHA)):
        once = long.shortened()
        assert once.steps == 1
        assert once.recipe() == long.recipe().replace("1,000", "1")
        assert not torch.allclose(scores(once, tasks), scores(long, tasks))


@pytest.mark.parametrize("place", range(5))
def test_numbers_that_make_no_sense_are_refused(place):
    values = [10, 0.1, 15.0, 0.1, 0.1]
    values[place] = 0
    with pytest.raises(ValueError, match="=0; give"):
        Tim(*values)
    if place != 1:
        with pytest.raises(ValueError, match="=0; give"):
            TimAdm(*[value for number, value in enumerate(values) if number != 1])
