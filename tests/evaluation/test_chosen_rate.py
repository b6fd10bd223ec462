"""The rate at which tasks are adapted to is chosen on validation tasks, and on nothing else."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ssl_runner.data.dataset import Splits
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.raw_pixels import RawPixels

CPU = torch.device("cpu")


class Rated(RawPixels):
    """Its own answers at the good rates, and label 0 at all others; it counts the tasks asked at each rate."""

    choice_tasks = 6

    def __init__(self, good, rates=(0.0, 0.1, 0.2)):
        super().__init__((1, 8, 8))
        self.good, self.given, self.rate = good, rates, 0.0
        self.asked: list[tuple[float, torch.Tensor]] = []

    @property
    def candidate_rates(self):
        return self.given

    @contextmanager
    def at_rate(self, rate):
        before, self.rate = self.rate, rate
        yield
        self.rate = before

    def classify(self, support_images, support_labels, query_images, n_way):
        self.asked.append((self.rate, query_images))
        if self.rate in self.good:
            return super().classify(support_images, support_labels, query_images, n_way)
        return F.one_hot(torch.zeros(query_images.shape[:2], dtype=torch.int64), n_way).float()


def score(algorithm, splits: Splits, settings=("3w2s",)) -> dict[str, float]:
    return FewShot(list(settings), 4, 10, 0, 4)(algorithm, splits, CPU)


@pytest.mark.parametrize(("good", "chosen"), [([0.2], 0.2), ([0.1, 0.2], 0.1), ([], 0.0), ([0.0, 0.1, 0.2], 0.0)])
def test_the_best_rate_on_validation_tasks_is_used_and_of_equal_ones_the_first(good, chosen, by_images):
    algorithm = Rated(good)
    scores = score(algorithm, by_images)
    assert scores["few_shot/3w2s/learning_rate"] == chosen
    assert {rate for rate, _ in algorithm.asked[-3:]} == {chosen}  # ten tasks, four at a time
    assert algorithm.rate == 0.0
    assert (scores["few_shot/3w2s/top1"] > 0.5) == (chosen in good)


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.flatten(0, -4)}


def test_while_it_is_chosen_no_test_image_is_looked_at(by_images):
    algorithm = Rated([0.1])
    score(algorithm, by_images)
    choosing = [images for _, images in algorithm.asked[:-3]]
    assert len(choosing) == 3 * 2  # rates, batches of six tasks
    assert by_images.validation is not None
    validation = rows(by_images.validation.images[None])
    assert all(rows(images) <= validation for images in choosing)
    assert torch.equal(choosing[0], choosing[2])  # the same tasks for every rate


def test_without_validation_or_with_too_few_classes_or_without_rates_nothing_is_chosen(by_images):
    part = by_images.validation
    assert part is not None
    few = replace(
        part, images=part.images[part.labels < 2], labels=part.labels[part.labels < 2], class_names=("0", "1")
    )
    for splits in (replace(by_images, validation=None), replace(by_images, validation=few), by_images.for_selection()):
        algorithm = Rated([0.1])
        assert "few_shot/3w2s/learning_rate" not in score(algorithm, splits)
        assert {rate for rate, _ in algorithm.asked} == {0.0}
    assert "few_shot/3w2s/learning_rate" not in score(Rated([], ()), by_images)


def test_each_setting_has_its_own(by_images):
    scores = score(Rated([0.1]), by_images, ["3w2s", "2w1s"])
    assert {"few_shot/3w2s/learning_rate", "few_shot/2w1s/learning_rate"} <= scores.keys()
