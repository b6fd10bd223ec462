import pytest
import torch
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.report.few_shot_table import HEIGHT, WIDTH, Cell, cells, log_few_shot, table_picture
from ssl_runner.report.maps import BRIGHT, DARK
from ssl_runner.report.pictures import GAP, PAPER

METRICS = {
    "few_shot/20w1s/top1": 0.3,
    "few_shot/20w1s/ci95": 0.01,
    "few_shot/5w1s/top1": 0.2,
    "few_shot/5w1s/inductive/top1": 0.9,
    "untrained/few_shot/5w1s/top1": 0.9,
    "mnist/few_shot/5w5s/top1": 1.0,
    "cifar10/few_shot/5w1s1q/top1": 0.6,
    "cifar10/few_shot/5w1s1q/ci95": 0.02,
    "raw_pixels/cifar10/few_shot/5w1s1q/top1": 0.9,
    "cifar10/verdict/5w1s/chance/top1": 0.2,
    "knn/top1": 0.9,
}


def test_cells_are_the_algorithms_own_accuracies_by_ways_then_shots():
    found = cells(METRICS)
    assert list(found) == [("test", "5w1s"), ("cifar10", "5w1s1q"), ("mnist", "5w5s"), ("test", "20w1s")]
    assert found["test", "20w1s"] == Cell(20, 0.3, 0.01)
    assert found["mnist", "5w5s"] == Cell(5, 1.0, None)


@pytest.mark.parametrize(("n_way", "accuracy", "share"), [(5, 0.2, 0), (5, 0.1, 0), (5, 0.6, 0.5), (2, 1.0, 1)])
def test_a_cell_is_as_bright_as_it_is_above_chance(n_way, accuracy, share):
    assert Cell(n_way, accuracy, None).above_chance == pytest.approx(share)


def test_every_cell_has_its_place_and_color():
    found = {("a", "5w1s"): Cell(5, 0.2, 0.01), ("b", "5w5s"): Cell(5, 1.0, None)}
    picture = table_picture(found)
    top = picture.shape[1] - (2 * (HEIGHT + GAP) + 14 + 2 * GAP)
    left = next(x for x in range(picture.shape[2]) if tuple(picture[:, top, x].tolist()) == DARK)
    corner = lambda row, column: tuple(picture[:, top + row * (HEIGHT + GAP), left + column * (WIDTH + GAP)].tolist())  # noqa: E731
    assert [[corner(row, column) for column in range(2)] for row in range(2)] == [[DARK, PAPER], [PAPER, BRIGHT]]


@pytest.mark.parametrize(("n", "shown"), [(1, []), (2, ["few_shot"])])
def test_one_accuracy_alone_needs_no_picture(n, shown, tmp_path):
    added = []
    metrics = {f"few_shot/5w{shots}s/top1": 0.5 for shots in range(1, n + 1)}
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_image = lambda tag, picture, step: added.append((tag, picture.dtype, step))
        log_few_shot(writer, metrics, 7)
    assert added == [(tag, torch.uint8, 7) for tag in shown]
