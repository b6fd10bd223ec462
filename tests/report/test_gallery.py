"""The picture of hard negatives: its layout and frames, and that it is logged once."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.evaluation.diagnostics import Diagnostics
from ssl_runner.losses.negatives import Negatives
from ssl_runner.report.hard_negatives import ANCHORS, HARDEST, log_negatives, negatives_picture
from ssl_runner.report.pictures import BORDER, CELL, WRONG
from ssl_runner.runs.events import final_writer, resumed_writer

N, SIZE = 12, 32
LABELS = torch.arange(N) % 3
NAMES = ("cat", "dog", "cow")
SHOWN = [0, 1, 3, 4, 6, 7, 9, 10]  # spread over the first view, which may be sorted by class


def images() -> torch.Tensor:
    """(2, N, 1, SIZE, SIZE); view v of image b has the gray level 10 + 2 (N v + b), which is unique."""
    levels = (10 + 2 * torch.arange(2 * N).float()) / 255
    return levels.view(2, N, 1, 1, 1).expand(-1, -1, 1, SIZE, SIZE)


def mined(seed: int = 0) -> Negatives:
    """Random weights, 0 for an anchor's own image."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.arange(N).repeat(2)
    other = image[:, None] != image[None, :]
    weight = torch.rand(2 * N, 2 * N, generator=generator) * other
    similarity = torch.rand(2 * N, 2 * N, generator=generator) * 2 - 1
    return Negatives(similarity, similarity.diagonal(N).repeat(2), weight / weight.sum(dim=1, keepdim=True))


def shown(picture: torch.Tensor) -> list[list[int]]:
    """For each row, the numbers of the views in it, from left to right."""
    found: dict[int, list[tuple[int, int]]] = {}
    for number in range(2 * N):
        level = picture[0] == 10 + 2 * number
        for top, left in runs(runs(level, CELL, 0), CELL, 1).nonzero().tolist():
            found.setdefault(top, []).append((left, number))
    return [[number for _, number in sorted(found[top])] for top in sorted(found)]


def runs(mask: torch.Tensor, length: int, dim: int) -> torch.Tensor:
    """Where runs of ``length`` consecutive marks begin."""
    size = mask.shape[dim]
    total = torch.cat([torch.zeros_like(mask.narrow(dim, 0, 1)).int(), mask.cumsum(dim)], dim=dim)
    return total.narrow(dim, length, size - length + 1) - total.narrow(dim, 0, size - length + 1) == length


def frames(picture: torch.Tensor) -> int:
    """Number of complete frames in the color of false negatives, counted by their vertical sides; letters are lower."""
    red = (picture == torch.tensor(WRONG)[:, None, None]).all(dim=0)
    return int(runs(red, CELL + 2 * BORDER, 0).sum()) // (2 * BORDER)


def test_a_row_has_an_anchor_its_positive_and_the_heaviest_negatives_in_order():
    found = mined()
    picture = negatives_picture(images(), found, LABELS, NAMES)
    expected = [
        [row, N + row, *sorted(range(2 * N), key=lambda k, row=row: -float(found.weight[row, k]))[:HARDEST]]
        for row in SHOWN
    ]
    assert shown(picture) == expected


@pytest.mark.parametrize("seed", range(3))
def test_only_false_negatives_have_frames(seed):
    found = mined(seed)
    places = found.weight[SHOWN].topk(HARDEST).indices % N
    false = int((LABELS[places] == LABELS[SHOWN, None]).sum())
    assert 0 < false < ANCHORS * HARDEST
    assert frames(negatives_picture(images(), found, LABELS, NAMES)) == false
    assert frames(negatives_picture(images(), found, torch.zeros_like(LABELS), NAMES)) == ANCHORS * HARDEST
    assert frames(negatives_picture(images(), found, torch.arange(N), None)) == 0


def test_without_labels_nothing_is_red():
    picture = negatives_picture(images(), mined(), None)
    assert not (picture == torch.tensor(WRONG)[:, None, None]).all(dim=0).any()


def test_for_equal_weights_the_most_similar_negative_comes_first():
    found = mined()
    found.weight.copy_((found.weight > 0) / (2 * N - 2))
    expected = sorted((k for k in range(2 * N) if k % N != 1), key=lambda k: -float(found.similarity[1, k]))
    assert shown(negatives_picture(images(), found, LABELS, NAMES))[1][2:] == expected[:HARDEST]


def test_an_anchor_without_negatives_has_a_row_without_them():
    found = mined()
    found.weight[3] = 0
    found.weight[4] *= torch.arange(2 * N) == 5
    rows = shown(negatives_picture(images(), found, LABELS, NAMES))
    assert rows[2] == [3, N + 3]
    assert rows[3] == [4, N + 4, 5]
    assert [len(row) for row in rows] == [8, 8, 2, 3, 8, 8, 8, 8]


def test_similarities_are_written_and_few_images_give_few_rows():
    found = mined()
    one = negatives_picture(images(), found, None)
    other = negatives_picture(images(), Negatives(-found.similarity, found.positive, found.weight), None)
    assert one.shape == other.shape and (one != other).any()
    two = [0, 1, N, N + 1]
    few = Negatives(found.similarity[two][:, two], found.positive[two], found.weight[two][:, two])
    assert len(shown(negatives_picture(images()[:, :2], few, None))) == 2


class Fixed(Diagnostics):
    """Diagnostics that return the given negatives in place of an algorithm's."""

    def negatives(self, algorithm):
        return algorithm


def diagnostics() -> Fixed:
    first, second = images()
    return Fixed(first, second, labels=LABELS)


def logged(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), {"images": 0, "histograms": 0}).Reload()


def test_a_resumed_run_that_is_evaluated_again_has_each_picture_once(tmp_path):
    algorithm: Algorithm = mined()  # type: ignore[assignment]
    with resumed_writer(tmp_path, 0) as writer:
        assert log_negatives(writer, diagnostics(), algorithm, NAMES, 0) is algorithm
    resumed_writer(tmp_path, 3).close()
    for _ in range(2):
        with final_writer(tmp_path) as writer:
            log_negatives(writer, diagnostics(), algorithm, NAMES, 5)
    events = logged(tmp_path)
    assert events.Tags()["images"] == ["hard_negatives"]
    assert [image.step for image in events.Images("hard_negatives")] == [0, 5]
    assert set(events.Tags()["histograms"]) == {"similarity/positive", "similarity/negative"}
    for tag, count in (("similarity/positive", 2 * N), ("similarity/negative", 2 * N * (2 * N - 2))):
        histograms = events.Histograms(tag)
        assert [histogram.step for histogram in histograms] == [0, 5]
        assert {histogram.histogram_value.num for histogram in histograms} == {count}


def test_nothing_is_logged_if_the_loss_returns_no_negatives_and_no_histogram_is_empty(tmp_path):
    none: Algorithm = None  # type: ignore[assignment]
    with resumed_writer(tmp_path, 0) as writer:
        assert log_negatives(writer, diagnostics(), none, NAMES, 0) is None
    assert logged(tmp_path).Tags()["images"] == []
    found = mined()
    found.weight.zero_()
    with resumed_writer(tmp_path, 0) as writer:
        log_negatives(writer, diagnostics(), found, NAMES, 0)  # type: ignore[arg-type]
    assert logged(tmp_path).Tags()["histograms"] == ["similarity/positive"]


def test_negatives_without_images_have_histograms_but_no_picture(tmp_path):
    found = mined()
    queue: Algorithm = replace(found, remembered=2 * N)  # type: ignore[assignment]
    with resumed_writer(tmp_path, 0) as writer:
        assert log_negatives(writer, diagnostics(), queue, NAMES, 0) is queue
    events = logged(tmp_path)
    assert events.Tags()["images"] == []
    assert events.Histograms("similarity/negative")[0].histogram_value.num == 2 * N * (2 * N - 2)

    more = torch.rand(2 * N, 5) + 1  # heavier than all images
    both = Negatives(torch.cat([found.similarity, more], 1), found.positive, torch.cat([found.weight, more], 1), 5)
    beside: Algorithm = both  # type: ignore[assignment]
    with resumed_writer(tmp_path / "both", 0) as writer:
        log_negatives(writer, diagnostics(), beside, NAMES, 0)
    events = logged(tmp_path / "both")
    encoded = events.Images("hard_negatives")[0].encoded_image_string
    picture = torch.from_numpy(np.array(Image.open(io.BytesIO(encoded)))).permute(2, 0, 1)
    assert torch.equal(picture, negatives_picture(images(), found, LABELS, NAMES))
    assert events.Histograms("similarity/negative")[0].histogram_value.num == 2 * N * (2 * N - 2 + 5)
