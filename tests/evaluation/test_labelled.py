"""The common part of kNN, linear probe and fine-tuning: their own dataset, and what they refuse before training."""

import json
from dataclasses import replace

import pytest
import torch

from ssl_runner.data.augmentation import Augmentation, PadCrop
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.errors import ConfigError
from ssl_runner.evaluation.evaluator import evaluate, selecting
from ssl_runner.evaluation.fine_tuning import FineTuning
from ssl_runner.evaluation.knn import KNN
from ssl_runner.evaluation.linear_probe import LinearProbe

CPU = torch.device("cpu")
MAKE = {
    "knn": lambda dataset: KNN(5, 0.1, dataset),
    "linear_probe": lambda dataset: LinearProbe([0.1, 0.01], 200, 1.0, dataset),
    "linear_probe_10pct": lambda dataset: LinearProbe([0.1, 0.01], 200, 0.1, dataset),
    "fine_tuning_10pct": lambda dataset: FineTuning(
        0.1, 2, 32, 0.05, 1.0, 0.0, Augmentation({"crop": PadCrop(1)}), dataset
    ),
}


@pytest.fixture
def unlabelled(by_images) -> Splits:
    """The training data of the run: noise without labels."""

    def part(name: str, seed: int) -> Dataset:
        noise = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
        return Dataset(f"noise/{name}", noise, None, (), None, f"noise {name}")

    return Splits(part("train", 0), None, part("test", 1), "images")


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("own", ["by_images", "by_classes"])
def test_its_own_dataset_is_scored_like_the_runs_own_and_is_named(name, own, small, unlabelled, request):
    dataset = request.getfixturevalue(own)
    algorithm, evaluator, plain = small(), MAKE[name](dataset), MAKE[name](None)
    evaluator.check(algorithm, unlabelled, CPU)
    scores = evaluator(algorithm, unlabelled, CPU)
    assert scores == {f"digits/{key}": value for key, value in plain(algorithm, dataset, CPU).items()}
    assert list(scores) == evaluator.keys()
    said = evaluator.protocol(unlabelled)
    assert (said["dataset"], said["classes"], said["queries"]) == (
        "digits",
        "unseen",
        plain.protocol(dataset)["queries"],
    )
    assert json.loads(json.dumps(said)) == said
    assert evaluator.protocol(dataset)["classes"] == "seen"


def test_scores_of_another_dataset_have_other_keys_and_select_nothing(small, by_images):
    made = {name: make(None) for name, make in MAKE.items()}
    made |= {f"{name}_digits": make(by_images) for name, make in MAKE.items()}
    scores = evaluate(made, small(), by_images, CPU)
    assert len(scores) == 2 * len([key for one in MAKE for key in MAKE[one](None).keys()])  # noqa: SIM118
    assert list(selecting(made)) == list(MAKE)


@pytest.mark.parametrize("name", MAKE)
def test_images_of_another_size_are_refused_with_the_key_to_set(name, small, by_images, unlabelled):
    larger = replace(by_images.test, images=torch.zeros(len(by_images.test), 3, 12, 12, dtype=torch.uint8))
    evaluator = MAKE[name](replace(by_images, test=larger))
    message = rf"eval\.{name}_digits\.dataset makes images of 3 x 12 x 12, but the encoder takes 1 x 8 x 8; set"
    for algorithm in (small(), None):
        with pytest.raises(ConfigError, match=message):
            evaluator.check(algorithm, unlabelled, CPU)


@pytest.mark.parametrize("name", MAKE)
def test_a_run_without_labels_gets_a_hint_about_labelled_datasets(name, small, unlabelled):
    with pytest.raises(ValueError, match=r"noise/test has no labels.*eval=\[knn_cifar10\], or run with eval=\[\]"):
        MAKE[name](None).check(small(), unlabelled, CPU)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_dataset_with_one_class_is_refused(name, part, small, by_images):
    without = replace(by_images, validation=None)
    labels = torch.full_like(getattr(by_images, part).labels, 3)
    one = replace(without, **{part: replace(getattr(by_images, part), labels=labels)})
    with pytest.raises(ValueError, match=rf"digits/{part} has one class \('3'\), expected at least two"):
        MAKE[name](None).check(small(), one, CPU)


def test_more_neighbours_than_gallery_images_are_refused(small, by_images, by_classes):
    KNN(1200, 0.1).check(small(), by_images, CPU)
    with pytest.raises(ValueError, match=r"eval\.knn\.k=1201, but there are only 1,200 images in"):
        KNN(1201, 0.1).check(small(), by_images, CPU)
    rows = torch.arange(30)
    few = replace(by_images.train, images=by_images.train.images[rows], labels=by_images.train.labels[rows])
    tiny = replace(by_images, train=few, validation=None)
    with pytest.raises(
        ValueError,
        match=r"eval\.knn\.k=200, but there are only 30 images in digits/train; set eval\.knn\.k=5",
    ):
        KNN(200, 0.1).check(None, tiny, CPU)
    with pytest.raises(ValueError, match=r"eval\.knn_digits\.k=200"):
        KNN(200, 0.1, tiny).check(small(), by_classes, CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_numbers_are_refused(value):
    crop = Augmentation({"crop": PadCrop(1)})
    for make in (
        lambda: LinearProbe([0.1, value], 100, 1.0),
        lambda: FineTuning(1.0, 2, 32, value, 1.0, 0.0, crop),
        lambda: FineTuning(1.0, 2, 32, 0.1, value, 0.0, crop),
        lambda: FineTuning(1.0, 2, 32, 0.1, 1.0, value, crop),
    ):
        with pytest.raises(ValueError, match="give"):
            make()
