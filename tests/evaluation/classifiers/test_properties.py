"""Properties of every few-shot classifier: what it may look at, and what must not matter."""

from dataclasses import replace

import pytest
import torch
from feature_tasks import of_pixels, scores

from ssl_runner.cli.options import groups
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.data.augmentation import Augmentation, PadCrop
from ssl_runner.evaluation.classifiers.centroid import Centroid
from ssl_runner.evaluation.classifiers.fine_tuning import SupportFineTuning
from ssl_runner.evaluation.classifiers.logistic import Logistic
from ssl_runner.evaluation.classifiers.pt_map import PTMap
from ssl_runner.evaluation.classifiers.ridge import Ridge
from ssl_runner.evaluation.classifiers.simple_shot import SimpleShot
from ssl_runner.evaluation.classifiers.tim import Tim, TimAdm

OF_FEATURES = {
    "centroid": Centroid(),
    "simple_shot": SimpleShot(),
    "logistic": Logistic(1.0),
    "ridge": Ridge(0.3),
    "tim": Tim(30, 0.01, 15.0, 0.1, 0.1),
    "tim_adm": TimAdm(10, 15.0, 0.1, 0.1),
    "pt_map": PTMap(0.5, 10.0, 0.2, 5, 100),
}
TRANSDUCTIVE = {"tim", "tim_adm", "pt_map"}


@pytest.fixture(scope="module")
def tasks(digits):
    return of_pixels(digits, 4, 2)


@pytest.fixture(params=OF_FEATURES)
def name(request):
    return request.param


def test_every_option_is_tested_here_or_on_its_own():
    assert {*OF_FEATURES, "fine_tuning", "in_context"} == set(groups([conf_folder()])["eval/classifier"])


def test_most_queries_are_classified_rightly(name, tasks):
    right = scores(OF_FEATURES[name], tasks).argmax(dim=2) == tasks.query_labels
    assert right.double().mean() > 0.6


def test_permuted_queries_have_permuted_scores(name, tasks):
    order = torch.randperm(tasks.query.shape[1], generator=torch.Generator().manual_seed(0))
    permuted = scores(OF_FEATURES[name], replace(tasks, query=tasks.query[:, order]))
    assert torch.allclose(permuted, scores(OF_FEATURES[name], tasks)[:, order], atol=1e-9)


def test_the_order_of_the_support_does_not_matter(name, tasks):
    order = torch.randperm(tasks.support.shape[1], generator=torch.Generator().manual_seed(0))
    permuted = replace(tasks, support=tasks.support[:, order], labels=tasks.labels[:, order])
    assert torch.allclose(scores(OF_FEATURES[name], permuted), scores(OF_FEATURES[name], tasks), atol=1e-8)


def test_renamed_classes_have_renamed_scores(name, tasks):
    to = torch.tensor([2, 0, 3, 1])
    renamed = scores(OF_FEATURES[name], replace(tasks, labels=to[tasks.labels]))
    assert torch.allclose(renamed[..., to], scores(OF_FEATURES[name], tasks), atol=1e-8)


def test_a_task_is_classified_as_it_would_be_alone(name, tasks):
    together = scores(OF_FEATURES[name], tasks)
    for task in range(len(tasks.support)):
        rows = slice(task, task + 1)
        alone = replace(tasks, support=tasks.support[rows], labels=tasks.labels[rows], query=tasks.query[rows])
        assert torch.allclose(scores(OF_FEATURES[name], alone), together[rows], atol=1e-8)


def test_only_transductive_classifiers_look_at_other_queries_and_they_say_so(name, tasks):
    before = scores(OF_FEATURES[name], tasks)[:, :3]
    others = torch.rand(tasks.query[:, 3:].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after = scores(OF_FEATURES[name], replace(tasks, query=torch.cat([tasks.query[:, :3], others], dim=1)))[:, :3]
    assert torch.allclose(before, after, atol=1e-9) == (name not in TRANSDUCTIVE)
    fewer = scores(OF_FEATURES[name], replace(tasks, query=tasks.query[:, :3]))
    assert torch.allclose(before, fewer, atol=1e-9) == (name not in TRANSDUCTIVE)
    assert OF_FEATURES[name].transductive == (name in TRANSDUCTIVE)


def test_scores_are_computed_in_the_precision_of_the_features(name, tasks):
    exact = scores(OF_FEATURES[name], tasks)
    single = replace(tasks, support=tasks.support.float(), query=tasks.query.float())
    found = scores(OF_FEATURES[name], single)
    assert (exact.dtype, found.dtype) == (torch.float64, torch.float32)
    assert (found.argmax(dim=2) == exact.argmax(dim=2)).double().mean() > 0.9


def test_equal_images_and_features_of_zero_give_finite_scores(name, tasks):
    for value in (0.0, 1.0):
        flat = replace(tasks, support=torch.full_like(tasks.support, value), query=torch.full_like(tasks.query, value))
        assert scores(OF_FEATURES[name], flat).isfinite().all()


def test_a_recipe_changes_with_every_value():
    recipes = [
        Logistic(1.0).recipe(),
        Logistic(2.0).recipe(),
        Ridge(0.3).recipe(),
        Ridge(0.4).recipe(),
        *(Tim(*values).recipe() for values in changed(30, 0.01, 15.0, 0.1, 0.2)),
        *(TimAdm(*values).recipe() for values in changed(30, 15.0, 0.1, 0.2)),
        *(PTMap(*values).recipe() for values in changed(0.5, 10.0, 0.2, 5, 100)),
        *(SupportFineTuning(*values, crop).recipe() for values in changed(25, 0.1, 2) for crop in crops()),
    ]
    assert len(set(recipes)) == len(recipes)


def crops():
    return Augmentation({"crop": PadCrop(1)}), Augmentation({"crop": PadCrop(2)})


def changed(*values):
    """The values, and all of them but one that is halved or, if it is an integer, one more."""
    yield values
    for place, value in enumerate(values):
        yield (*values[:place], value + 1 if isinstance(value, int) else value / 2, *values[place + 1 :])
