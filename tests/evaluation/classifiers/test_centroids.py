"""Class means, with and without centring, compared with their closed forms in a loop."""

from dataclasses import replace

import pytest
import torch
from feature_tasks import of_pixels, scores

from ssl_runner.data.dataset import Splits
from ssl_runner.evaluation.classifiers.centroid import Centroid
from ssl_runner.evaluation.classifiers.encoded import Encoded
from ssl_runner.evaluation.classifiers.simple_shot import SimpleShot
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.raw_pixels import RawPixels

CPU = torch.device("cpu")
PIXELS = RawPixels((1, 8, 8))


def naive(tasks, center):
    """Minus the squared distance to each class mean, after centring (if there is a center) and normalisation."""

    def moved(point):
        point = point - center
        return point / point.square().sum().sqrt()

    found = torch.empty(*tasks.query.shape[:2], tasks.n_way, dtype=torch.float64)
    for task in range(len(tasks.support)):
        for label in range(tasks.n_way):
            members = [moved(point) for point in tasks.support[task][tasks.labels[task] == label]]
            mean = sum(members) / len(members)
            for place, query in enumerate(tasks.query[task]):
                found[task, place, label] = -(moved(query) - mean).square().sum()
    return found


@pytest.mark.parametrize("shots", [1, 3])
def test_cl2n_and_l2n_are_their_closed_forms(shots, digits):
    tasks = of_pixels(digits, 5, shots)
    center = torch.linspace(0, 0.4, 64, dtype=torch.float64)
    assert torch.allclose(scores(Centroid(), tasks), naive(tasks, 0), atol=1e-12)
    assert torch.allclose(scores(SimpleShot(), tasks, center), naive(tasks, center), atol=1e-12)


def few_shot(name: str) -> FewShot:
    return FewShot(["5w2s"], 4, 50, 0, 8, classifier=name, classifiers={name: SimpleShot()})


def test_the_center_is_the_mean_of_training_images_and_of_no_others(by_images):
    encoded = Encoded(PIXELS.eval_encoder(), by_images.test, [], by_images.train.images, CPU)
    assert torch.allclose(encoded.training_mean, by_images.train.images.flatten(1).float().mean(0) / 255, atol=1e-6)
    before = few_shot("simple_shot")(PIXELS, by_images, CPU)
    noise = torch.randint(0, 256, by_images.validation.images.shape, dtype=torch.uint8)
    other = replace(by_images, validation=replace(by_images.validation, images=noise))
    assert few_shot("simple_shot")(PIXELS, other, CPU) == before
    unseen = torch.ones(len(by_images.test), dtype=torch.bool)
    evaluator = few_shot("simple_shot")
    tasks = evaluator.tasks(by_images.test)(evaluator.settings[0])
    unseen[torch.cat([tasks.support.flatten(), tasks.query.flatten()])] = False
    images = by_images.test.images.clone()
    images[unseen] = 255 - images[unseen]
    changed = replace(by_images, test=replace(by_images.test, images=images))
    assert few_shot("simple_shot")(PIXELS, changed, CPU) == before
    trained = replace(by_images.train, images=255 - by_images.train.images)
    assert few_shot("simple_shot")(PIXELS, Splits(trained, None, by_images.test, "images"), CPU) != before


def test_of_many_training_images_an_even_part_is_looked_at(by_images, monkeypatch):
    monkeypatch.setattr("ssl_runner.evaluation.few_shot.LOOKED_AT", 300)
    evaluator, images = few_shot("simple_shot"), by_images.train.images
    before = evaluator(PIXELS, by_images, CPU)
    looked = torch.arange(0, len(images), 4)  # 250 of 1,000
    others = torch.ones(len(images), dtype=torch.bool).index_fill(0, looked, False)
    changed = torch.where(others[:, None, None, None], 255 - images, images)
    assert evaluator(PIXELS, replace(by_images, train=replace(by_images.train, images=changed)), CPU) == before
    changed = torch.where(others[:, None, None, None], images, 255 - images)
    assert evaluator(PIXELS, replace(by_images, train=replace(by_images.train, images=changed)), CPU) != before
