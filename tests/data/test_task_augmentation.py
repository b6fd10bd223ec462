"""Changes of whole tasks, each compared with a loop over tasks and classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from ssl_runner.data.augmentation import Affine, Augmentation
from ssl_runner.data.augmentation.color import LUMA
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.episode_batching import EpisodeBatching
from ssl_runner.data.episodes.task_augmentation import KINDS, TaskAugmentation, orthogonal
from ssl_runner.data.sources.digits import digits
from ssl_runner.runtime import process_group

WAYS, SHOTS, QUERIES = 3, 2, 1
CPU = torch.device("cpu")


def only(*kinds: str, probability: float = 1.0) -> TaskAugmentation:
    return TaskAugmentation(**{kind: probability if kind in kinds else 0.0 for kind in KINDS})


def tasks(n: int, channels: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1] and labels of support and queries, sorted by class."""
    images = torch.rand(n, WAYS * (SHOTS + QUERIES), channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    labels = torch.cat([torch.arange(WAYS).repeat_interleave(each) for each in (SHOTS, QUERIES)])
    return images, labels.expand(n, -1)


def uniforms(augmentation: TaskAugmentation, n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, augmentation.columns(WAYS, 5, 5), generator=torch.Generator().manual_seed(seed))


def test_each_class_is_rotated_by_its_own_right_angles_in_support_and_query():
    augmentation, (images, labels) = only("rotation"), tasks(200)
    found = augmentation(images, labels, WAYS, uniforms(augmentation, 200))
    counts = np.zeros((4, 4))
    for task in range(200):
        turns = []
        for label in range(WAYS):
            members = (labels[task] == label).nonzero()[:, 0].tolist()
            fitting = [
                number
                for number in range(4)
                if all(np.array_equal(found[task, m, 0], np.rot90(images[task, m, 0], number)) for m in members)
            ]
            assert len(fitting) == 1 and len(members) == SHOTS + QUERIES
            turns += fitting
        counts[turns[0], turns[1]] += 1
    assert chisquare(counts.flatten()).pvalue > 0.001  # uniform, and classes turn independently


def test_an_inverted_task_is_one_minus_itself():
    augmentation, (images, labels) = only("inversion"), tasks(3)
    assert torch.equal(augmentation(images, labels, WAYS, uniforms(augmentation, 3)), 1 - images)


def test_a_colored_task_maps_gray_values_to_a_line_between_its_own_two_colors():
    augmentation, (images, labels) = only("colorization"), tasks(20, channels=3)
    draws = uniforms(augmentation, 20)
    found = augmentation(images, labels, WAYS, draws)
    for task in range(20):
        black, white = draws[task, -6:-3].double(), draws[task, -3:].double()
        gray = sum(share * images[task, :, channel].double() for channel, share in enumerate(LUMA))
        expected = torch.stack([black[c] + (white[c] - black[c]) * gray for c in range(3)], dim=1)
        torch.testing.assert_close(found[task].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_projected_task_is_a_squashed_orthogonal_map_of_the_pixels_of_all_its_images(channels):
    augmentation, (images, labels) = only("projection"), tasks(4, channels)
    draws = uniforms(augmentation, 4)
    found = augmentation(images, labels, WAYS, draws)
    assert found.min() >= 0 and found.max() <= 1
    for task in range(4):
        left, right = (orthogonal(part.view(1, 5, 5))[0].double() for part in draws[task, -50:].split(25))
        whole = torch.kron(left, right)  # of pixels, row by row
        torch.testing.assert_close(whole @ whole.T, torch.eye(25, dtype=torch.float64), rtol=0, atol=1e-5)
        for image, changed in zip(images[task].double(), found[task].double(), strict=True):
            for before, after in zip(image, changed, strict=True):
                mapped = (whole @ (before - 0.5).flatten()).view(5, 5)
                torch.testing.assert_close(after, 1 / (1 + torch.exp(-4 * mapped)), rtol=0, atol=1e-5)
    assert not torch.allclose(*(orthogonal(draws[task, -50:-25].view(1, 5, 5)) for task in (0, 1)))


def test_orthogonal_matrices_are_uniformly_distributed():
    found = orthogonal(torch.rand(20_000, 3, 3, generator=torch.Generator().manual_seed(0))).double()
    identity = torch.eye(3, dtype=torch.float64).expand(20_000, 3, 3)
    torch.testing.assert_close(found @ found.mT, identity, rtol=0, atol=1e-5)
    # a coordinate of a point on the sphere is uniform in [-1, 1] (Archimedes), and both orientations are equally likely
    for row in range(3):
        for column in range(3):
            assert kstest(found[:, row, column].numpy(), "uniform", (-1, 2)).pvalue > 0.0005
    assert abs((torch.linalg.det(found) > 0).double().mean() - 0.5) < 0.02


@pytest.mark.parametrize("extreme", [0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_extreme_numbers_keep_a_task_in_range(extreme):
    augmentation, (images, labels) = only(*KINDS), tasks(2, channels=3)
    found = augmentation(images, labels, WAYS, torch.full((2, augmentation.columns(WAYS, 5, 5)), extreme))
    assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1


def test_each_kind_is_applied_with_its_own_probability_independently_of_the_others():
    augmentation, (images, labels) = TaskAugmentation(0.0, 0.3, 0.0, 0.6), tasks(3_000)
    found = augmentation(images, labels, WAYS, uniforms(augmentation, 3_000))
    inverted = (found == 1 - images).flatten(1).all(dim=1)
    untouched = (found == images).flatten(1).all(dim=1)
    assert abs(inverted.double().mean() - 0.3 * 0.4) < 0.02
    assert abs(untouched.double().mean() - 0.7 * 0.4) < 0.025


def test_a_task_depends_only_on_its_row_and_its_input_is_not_changed():
    augmentation, (images, labels) = only(*KINDS, probability=0.5), tasks(40, channels=3)
    draws, before = uniforms(augmentation, 40), images.clone()
    whole = augmentation(images, labels, WAYS, draws)
    assert torch.equal(images, before)
    for row in range(40):
        alone = augmentation(images[row : row + 1], labels[row : row + 1], WAYS, draws[row : row + 1])
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def train() -> Dataset:
    return digits("classes", 0.0, 0.0, [5, 0, 5], split_seed=0, size=None, channels=None).train


def episodes(train: Dataset, task_augmentation, n_way=5, augmentation=None, n: int = 4) -> EpisodeBatching:
    made = EpisodeBatching(augmentation or Augmentation({}), n_way, 1, 3, n, task_augmentation)
    made.bind(train, 0, CPU)
    return made


def test_tasks_have_the_same_images_and_labels_but_augmented_and_a_step_is_the_same_on_resume(train):
    plain, changed = episodes(train, None), episodes(train, only("inversion"))
    for step in (0, 7):
        before, after = plain.batch(step), changed.batch(step)
        assert torch.equal(after.support_images, 1 - before.support_images)
        assert torch.equal(after.query_images, 1 - before.query_images)
        assert torch.equal(after.query_labels, before.query_labels)
    some = episodes(train, only("rotation", "projection", probability=0.5))
    seventh = some.batch(7)
    some.batch(8)
    assert torch.equal(episodes(train, some.task_augmentation).batch(7).query_images, seventh.query_images)
    assert torch.equal(some.batch(7).query_images, seventh.query_images)


@pytest.mark.parametrize("n_way", [3, [2, 5]])
def test_two_processes_augment_tasks_like_one(train, n_way, monkeypatch):
    jitter = Augmentation({"affine": Affine(degrees=10.0, translate=0.1, scale=[0.9, 1.1], shear=0.0, fill=0.0)})
    batching = episodes(train, only("rotation", "inversion", "projection", probability=0.5), n_way, jitter)
    whole = [batching.batch(step) for step in range(4)]
    monkeypatch.setattr(process_group, "size", lambda: 2)
    for step, expected in enumerate(whole):
        halves = []
        for rank in range(2):
            monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
            halves.append(batching.batch(step))
        for name in ("support_images", "query_images", "query_labels"):
            assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(expected, name)), name


def test_memorising_classes_or_rotated_classes_only_scores_chance(train):
    """The best accuracy of a predictor that knows what an image shows and how it is turned, but not the support."""
    batching = episodes(train, only("rotation", "inversion", probability=0.5), n=100)
    plain = episodes(train, None, n=100)
    place = {image.numpy().tobytes(): number for number, image in enumerate(train.images)}
    learned, asked = torch.zeros(2, 5, 8, 5)
    for step in range(8):
        before, after = plain.batch(step).query_images, batching.batch(step).query_images
        numbers = (before.flatten(0, 1) * 255).round().to(torch.uint8)
        known = train.labels[[place[image.numpy().tobytes()] for image in numbers]]
        views = torch.stack([turned for b in (before, 1 - before) for turned in (b.rot90(n, (3, 4)) for n in range(4))])
        fitting = (views == after).flatten(3).all(dim=3)
        assert fitting.any(dim=0).all()
        look, labels = fitting.double().argmax(dim=0).flatten(), plain.batch(step).query_labels.flatten()
        (learned if step < 6 else asked).index_put_((known, look, labels), torch.ones(1), accumulate=True)
    assert (learned.sum(dim=2) > 0).all()
    right = asked.gather(2, learned.argmax(dim=2, keepdim=True)).sum() / asked.sum()
    assert right.item() == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (
            "colorization",
            (1, 4, 4),
            r"^task_augmentation\.colorization=0\.5, but images of digits/train are gray; set "
            r"batching\.task_augmentation\.colorization=0 or dataset\.channels=3$",
        ),
        ("rotation", (1, 4, 5), r"rotation=0\.5, but images of digits/train are not square; set .*=0 or dataset\.size"),
    ],
)
def test_images_that_cannot_be_augmented_are_reported_with_the_remedy(train, kind, shape, message):
    images = torch.zeros(len(train), *shape, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        episodes(replace(train, images=images), only(kind, probability=0.5))
    episodes(replace(train, images=images), only(kind, probability=0.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_is_not_a_probability_is_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind}=1\.5, expected a probability in \[0, 1\]"):
        only(kind, probability=1.5)
