import numpy as np
import pytest
import torch
from torch.nn import functional

from ssl_runner.data.batches import Episodes, Views
from ssl_runner.report.pictures import BORDER, CELL, GAP, PAPER, RIGHT, WRONG, episode_picture, views_picture

SIZE = 16  # of the images here; a whole part of CELL
PIXELS = CELL // SIZE


def is_color(picture, color) -> torch.Tensor:
    """A mask (H, W) of the pixels with this color."""
    return (picture == torch.tensor(color)[:, None, None]).all(dim=0)


def tall_runs(mask, least: int) -> int:
    """Number of columns with at least ``least`` consecutive pixels of the mask; adjacent columns count once."""
    found = 0
    padded = np.pad(mask.numpy().astype(int), ((1, 1), (0, 1)))
    changes = np.diff(padded, axis=0)
    starts = {}
    for x in range(padded.shape[1]):
        begin, end = np.where(changes[:, x] == 1)[0], np.where(changes[:, x] == -1)[0]
        here = {(int(b), int(e)) for b, e in zip(begin, end, strict=True) if e - b >= least}
        found += len(here - starts.get(x - 1, set()))
        starts[x] = here
    return found


def episode(n_way: int = 3, shots: int = 1, queries: int = 2, tasks: int = 2, size: int = SIZE) -> Episodes:
    """Images of class c have gray level c / n_way, which no border or background has."""
    support = torch.arange(n_way).repeat_interleave(shots).expand(tasks, -1)
    query = torch.arange(n_way).repeat(queries).expand(tasks, -1)

    def images(labels):
        return (labels.float() / n_way)[:, :, None, None, None].expand(-1, -1, 1, size, size)

    return Episodes(images(support), support, images(query), query, n_way)


def scores_for(task: Episodes, wrong: tuple[int, ...] = ()) -> torch.Tensor:
    """Scores (1, Q, n_way) that are correct except for these queries, which get the next class."""
    predictions = task.query_labels[:1].clone()
    predictions[:, list(wrong)] = (predictions[:, list(wrong)] + 1) % task.n_way
    return functional.one_hot(predictions, task.n_way).float()


def test_views_are_rows_with_repeated_pixels():
    crops = torch.rand(2, 3, 3, SIZE, SIZE)
    picture = views_picture(Views((crops,), None, torch.arange(3)))
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 2 * (CELL + GAP) + GAP, 3 * (CELL + GAP) + GAP)
    for view in range(2):
        for image in range(3):
            top, left = GAP + view * (CELL + GAP), GAP + image * (CELL + GAP)
            cell = picture[:, top : top + CELL, left : left + CELL]
            pixels = cell.view(3, SIZE, PIXELS, SIZE, PIXELS)
            assert (pixels == (crops[view, image] * 255).round().byte()[:, :, None, :, None]).all()


def test_the_gaps_between_views_are_paper():
    picture = views_picture(Views((torch.zeros(2, 3, 1, SIZE, SIZE),), None, torch.arange(3)))
    paper = is_color(picture, PAPER)
    assert paper[:GAP].all() and paper[:, CELL + GAP : CELL + 2 * GAP].all()
    assert int((~paper).sum()) == 6 * CELL * CELL


def test_gray_views_are_gray():
    picture = views_picture(Views((torch.rand(2, 3, 1, SIZE, SIZE),), None, torch.arange(3)))
    assert (picture[0] == picture[1]).all() and (picture[1] == picture[2]).all()


def test_smaller_crops_are_centered_in_equal_cells():
    large, small = torch.zeros(2, 3, 1, SIZE, SIZE), torch.zeros(3, 3, 1, SIZE // 2, SIZE // 2)
    picture = views_picture(Views((large, small), None, torch.arange(3)))
    assert picture.shape[1:] == (5 * (CELL + GAP) + GAP, 3 * (CELL + GAP) + GAP)
    top, left = GAP + 2 * (CELL + GAP), GAP
    cell = ~is_color(picture, PAPER)[top : top + CELL, left : left + CELL]
    quarter = CELL // 4
    assert int(cell.sum()) == (CELL // 2) ** 2 and cell[quarter : 3 * quarter, quarter : 3 * quarter].all()


def test_the_number_of_images_shown_is_limited():
    batch = Views((torch.zeros(1, 30, 1, SIZE, SIZE),), None, torch.arange(30))
    assert views_picture(batch, most=4).shape[2] == 4 * (CELL + GAP) + GAP


@pytest.mark.parametrize(("size", "cell"), [(8, 64), (28, 84), (64, 64), (224, 224)])
def test_small_images_are_enlarged_and_none_is_reduced(size, cell):
    picture = views_picture(Views((torch.zeros(1, 1, 1, size, size),), None, torch.arange(1)))
    assert picture.shape == (3, cell + 2 * GAP, cell + 2 * GAP)


def test_values_beyond_the_range_do_not_wrap_around():
    crops = torch.tensor([-0.5, 1.5])[None, :, None, None, None].expand(1, 2, 1, SIZE, SIZE)
    picture = views_picture(Views((crops,), None, torch.arange(2)))
    assert picture[0, CELL // 2, CELL // 2] == 0 and picture[0, CELL // 2, CELL + GAP + CELL // 2] == 255


@pytest.mark.parametrize("wrong", [(), (1,), (0, 2, 5), tuple(range(6))])
def test_right_queries_are_framed_green_and_wrong_ones_red(wrong):
    task = episode(n_way=3, queries=2)
    picture = episode_picture(task, scores_for(task, wrong))
    frame = CELL + 2 * BORDER  # two upright sides each
    assert tall_runs(is_color(picture, RIGHT), frame) == 2 * (6 - len(wrong))
    assert tall_runs(is_color(picture, WRONG), frame) == 2 * len(wrong)


def test_only_wrong_queries_have_their_prediction_below():
    task = episode(n_way=3, queries=1)
    rights, wrongs = (episode_picture(task, scores_for(task, wrong)) for wrong in ((), (2,)))
    frame = 2 * (CELL + 2 * BORDER) * BORDER + 2 * CELL * BORDER
    assert int(is_color(rights, WRONG).sum()) == 0
    assert int(is_color(wrongs, WRONG).sum()) > frame
    other = scores_for(task, (2,)).roll(1, dims=-1)  # another class is predicted: only the number may change
    assert (episode_picture(task, other) != wrongs).any()


def test_support_and_queries_of_a_class_are_in_its_row():
    task = episode(n_way=4, shots=2, queries=3)
    picture = episode_picture(task, scores_for(task))
    for number in range(4):
        level = round(number / 4 * 255)
        rows = torch.where((is_color(picture, (level,) * 3)).sum(dim=1) >= 5 * CELL)[0]
        assert len(rows) == CELL  # five images in one line, and in one only
        assert rows.max() - rows.min() == CELL - 1


def test_the_first_task_is_shown():
    task = episode(tasks=2)
    right, wrong = scores_for(task), scores_for(task, tuple(range(6)))
    picture = episode_picture(task, torch.cat([right, wrong]))
    assert (picture == episode_picture(task, right)).all()


def test_queries_are_limited_but_all_are_counted_in_the_heading():
    task = episode(n_way=2, queries=30)
    some, fewer = (episode_picture(task, scores_for(task), most=most) for most in (8, 4))
    assert some.shape[2] - fewer.shape[2] == 4 * (CELL + 2 * BORDER + GAP)
    hidden = episode_picture(task, scores_for(task, (59,)))
    assert (hidden != some).any() and tall_runs(is_color(hidden, WRONG), CELL) == 0


@pytest.mark.parametrize("n_way", [20, 100])
def test_many_classes_are_arranged_in_columns_and_none_is_left_out(n_way):
    task = episode(n_way=n_way, queries=1, tasks=1)
    picture = episode_picture(task, scores_for(task, (3, 7)))
    height, width = picture.shape[1:]
    assert max(height, width) < 3 * min(height, width)
    frame = CELL + 2 * BORDER
    assert tall_runs(is_color(picture, RIGHT), frame) == 2 * (n_way - 2)
    assert tall_runs(is_color(picture, WRONG), frame) == 2 * 2


def test_class_names_are_shown_and_long_ones_shortened():
    task = episode()
    plain = episode_picture(task, scores_for(task))
    named = episode_picture(task, scores_for(task), ["cat", "dog", "cow"])
    long = episode_picture(task, scores_for(task), ["cat", "dog", "c" * 500])
    assert plain.shape[2] < named.shape[2] < long.shape[2] < 2 * named.shape[2]


@pytest.mark.parametrize("shape", [(6, 3), (3, 6, 3), (1, 5, 3), (1, 6, 4)])
def test_scores_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"give \(1 or 2, 6, 3\)"):
        episode_picture(episode(), torch.zeros(shape))


def test_the_wrong_number_of_class_names_is_refused():
    task = episode()
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        episode_picture(task, scores_for(task), ["cat", "dog"])
