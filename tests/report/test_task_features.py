import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.algorithms.algorithm import TaskFeatures
from ssl_runner.data.batches import Episodes
from ssl_runner.report.pictures import GAP
from ssl_runner.report.task_features import (
    SIDE,
    SUPPORT,
    class_colors,
    features_picture,
    log_task_features,
    places_in_panel,
    plane,
)

TOP = 22  # of a panel: a line of text and a gap


def rows(n: int = 30, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, width, generator=generator) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.1][:width])


def test_the_plane_equals_the_first_two_eigenvectors_of_the_covariance():
    features = rows()
    points, share = plane(features)
    centered = features.double().numpy() - features.double().numpy().mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(centered.T))
    for number in range(2):
        vector = vectors[:, -1 - number]
        vector = vector * np.sign(vector[np.abs(vector).argmax()])
        assert points[:, number].numpy() == pytest.approx(centered @ vector, abs=1e-9)
    assert share == pytest.approx(values[-2:].sum() / values.sum())


@pytest.mark.parametrize("width", [1, 2])
def test_in_a_plane_distances_are_kept(width):
    features = rows(width=width)
    points, share = plane(features)
    assert points.shape == (30, 2) and share == pytest.approx(1)
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(features.double(), features.double()))


def test_equal_features_lie_in_one_point():
    points, share = plane(torch.ones(4, 3))
    assert not points.any() and share == 0
    assert len(set(places_in_panel(points))) == 1


def test_points_fill_the_panel_with_one_scale_upwards():
    found = places_in_panel(torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
    first, last = 2 * SUPPORT, SIDE - 2 * SUPPORT - 1
    assert (found[0][0], found[1][0]) == (first, last)
    assert found[0][1] == found[1][1] > found[2][1]
    assert found[0][1] - found[2][1] == pytest.approx((last - first) / 2, abs=1)


@pytest.mark.parametrize("n", [2, 5, 20])
def test_classes_have_different_colors(n):
    assert len(set(class_colors(n))) == n


def task() -> tuple[Episodes, torch.Tensor]:
    """Two classes with one shot and two queries each; the last query is taken for the first class."""
    support, query = torch.tensor([[0, 1]]), torch.tensor([[0, 0, 1, 1]])
    images = [torch.zeros(*labels.shape, 1, 4, 4) for labels in (support, query)]
    return Episodes(images[0], support, images[1], query, 2), functional.one_hot(torch.tensor([[0, 0, 1, 0]]), 2)


SHOWN = TaskFeatures(
    "before adaptation",
    torch.tensor([[[-4.0, 1.0], [4.0, -1.0]]]),
    torch.tensor([[[-2.0, -1.0], [-1.0, 1.0], [2.0, 1.0], [1.0, -1.0]]]),
)


def pixel(picture: torch.Tensor, place: tuple[int, int], panel: int = 0) -> tuple[int, ...]:
    x, y = place
    return tuple(picture[:, TOP + y, GAP + panel * (SIDE + GAP) + x].tolist())


@pytest.mark.parametrize("stages", [1, 2])
def test_images_stand_at_their_place_in_the_color_of_class_and_prediction(stages):
    episode, scores = task()
    picture = features_picture([SHOWN] * stages, episode, scores.float(), ["cat", "dog"])
    assert picture.dtype == torch.uint8 and picture.shape[2] >= stages * (SIDE + GAP)
    first, second = class_colors(2)
    points, _ = plane(torch.cat([SHOWN.support[0], SHOWN.query[0]]))
    places = places_in_panel(points)
    for panel in range(stages):
        middles = [pixel(picture, place, panel) for place in places]
        assert middles == [first, second, first, first, second, first]  # the last query is taken for the first class
        rims = [pixel(picture, (x - 4, y), panel) for x, y in places]
        assert rims == [first, second, first, first, second, second]


def test_many_classes_without_names_are_all_in_the_legend():
    n = 40
    labels = torch.arange(n)[None]
    images = torch.zeros(1, n, 1, 4, 4)
    stage = TaskFeatures("", rows(n)[None], rows(n)[None])
    picture = features_picture([stage], Episodes(images, labels, images, labels, n), torch.eye(n)[None])
    below = picture[:, TOP + SIDE + 20 :]
    assert all((below == torch.tensor(color)[:, None, None]).all(dim=0).any() for color in class_colors(n))


class Diverged:
    def __init__(self, value: float) -> None:
        self.value = value

    def task_features(self, *_):
        return [TaskFeatures("", SHOWN.support * self.value, SHOWN.query)]

    def modules(self):
        return []

    def eval(self):
        return self


@pytest.mark.parametrize(("value", "shown"), [(1.0, True), (float("nan"), False)])
def test_features_that_have_diverged_are_not_shown(value, shown, tmp_path):
    episode, scores = task()
    added = []
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_image = lambda *given: added.append(given[0])
        log_task_features(writer, "x", Diverged(value), episode, scores, None, torch.device("cpu"), 0)
    assert added == (["x"] if shown else [])
