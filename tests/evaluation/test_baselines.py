"""Rules that classify from a few images, compared with a loop over queries."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from ssl_runner.data.episodes.tasks import TaskSampler
from ssl_runner.evaluation.baselines import nearest_mean, nearest_neighbour, of_pixels, ridge_regression
from ssl_runner.evaluation.contender import Contender
from ssl_runner.runtime import randomness

CPU = torch.device("cpu")
SHARE = 0.3


def tasks_of(dataset, ways: int, shots: int, n: int):
    sampler = TaskSampler(dataset, ways, shots, 4)
    return sampler(randomness.uniforms(0, "few_shot", 0, n, sampler.columns))


def by_neighbour(support, labels, query, n_way):
    return labels[np.linalg.norm(support - query, axis=1).argmin()]


def by_mean(support, labels, query, n_way):
    means = [support[labels == label].mean(axis=0) for label in range(n_way)]
    return np.argmin([np.linalg.norm(query - mean) for mean in means])


def by_ridge(support, labels, query, n_way):
    spread = np.mean([np.sum((image - support.mean(axis=0)) ** 2) for image in support])
    regression = Ridge(alpha=SHARE * spread, solver="svd").fit(support, np.eye(n_way)[labels])
    return regression.predict(query[None])[0].argmax()


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize(
    ("rule", "naive"),
    [(nearest_neighbour, by_neighbour), (nearest_mean, by_mean), (ridge_regression(SHARE), by_ridge)],
)
def test_accuracies_on_pixels_equal_a_naive_loop(rule, naive, shots, by_images):
    test = by_images.test
    tasks = tasks_of(test, 4, shots, 30)
    found = Contender.of_rule("rule", test.images, of_pixels(rule)).accuracies(tasks, 7, CPU)[""]
    pixels = test.images.flatten(1).double().numpy() / 255
    for task in range(30):
        support, labels = pixels[tasks.support[task]], tasks.support_labels[task].numpy()
        answers = [naive(support, labels, pixels[place], 4) for place in tasks.query[task]]
        assert found[task].item() == pytest.approx(np.mean(np.array(answers) == tasks.query_labels[task].numpy()))


def test_ridge_is_the_solution_of_its_normal_equations_in_float64():
    generator = torch.Generator().manual_seed(0)
    support, query = (torch.rand(3, n, 6, generator=generator, dtype=torch.float64) for n in (8, 5))
    labels = torch.arange(4).repeat(2).expand(3, -1)
    found = ridge_regression(SHARE)(support, labels, query, 4)
    for task in range(3):
        centered, targets = support[task] - support[task].mean(0), F.one_hot(labels[task], 4).double()
        strength = SHARE * centered.square().sum(1).mean()
        weights = torch.linalg.inv(centered.T @ centered + strength * torch.eye(6)) @ centered.T @ targets
        expected = (query[task] - support[task].mean(0)) @ weights + targets.mean(0)
        assert torch.allclose(found[task], expected, atol=1e-12)


def test_the_scale_of_the_features_does_not_matter_to_ridge_and_equal_images_give_equal_scores():
    generator = torch.Generator().manual_seed(0)
    support, query, labels = torch.rand(1, 4, 6, generator=generator), torch.rand(1, 5, 6), torch.arange(4)[None]
    rule = ridge_regression(SHARE)
    found = rule(support, labels, query, 4)
    assert torch.allclose(found, rule(100 * support, labels, 100 * query, 4), atol=1e-5)
    assert torch.allclose(rule(torch.ones(1, 4, 6), labels, query, 4), torch.full((1, 5, 4), 0.25))


def test_with_one_shot_the_nearest_image_is_the_nearest_mean(by_images):
    tasks, images = tasks_of(by_images.test, 5, 1, 40), by_images.test.images
    rules = (nearest_neighbour, nearest_mean)
    first, second = (Contender.of_rule("rule", images, of_pixels(rule)).accuracies(tasks, 8, CPU)[""] for rule in rules)
    assert torch.equal(first, second)


def test_scores_of_the_wrong_shape_are_refused(by_images):
    tasks = tasks_of(by_images.test, 3, 1, 2)
    wrong = Contender.of_rule("wrong", by_images.test.images, lambda *task: torch.zeros(2, 3, 12))
    with pytest.raises(ValueError, match=r"wrong returned \(2, 3, 12\); expected \(T, Q, n_way\) = \(2, 12, 3\)"):
        wrong.accuracies(tasks, 8, CPU)


def test_an_algorithm_that_sees_one_image_at_a_time_encodes_each_image_once(small, long_way, by_images):
    algorithm, test, seen = small().eval(), by_images.test, []
    algorithm.eval_encoder().register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    tasks = tasks_of(test, 5, 1, 60)
    with torch.no_grad():
        short = Contender.of_algorithm(algorithm, test, [tasks], CPU).accuracies(tasks, 8, CPU)[""]
        assert sum(seen) == len(test)
        long = Contender.of_algorithm(small(long_way).eval(), test, [tasks], CPU).accuracies(tasks, 8, CPU)[""]
    assert short.mean().item() == pytest.approx(long.mean().item(), abs=2e-3)
