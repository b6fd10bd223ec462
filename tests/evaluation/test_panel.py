"""Diagnostics: closed forms, the images they use, and no side effects."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ssl_runner.data.augmentation import Augmentation, HorizontalFlip
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.data.episodes.episode_batching import EpisodeBatching
from ssl_runner.data.episodes.pseudo_episodes import PseudoEpisodeBatching
from ssl_runner.evaluation.diagnostics import COLLAPSED, Diagnostics, alignment, rankme, spread, uniformity

CPU = torch.device("cpu")


def sphere(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def test_alignment_is_zero_for_equal_and_four_for_opposite_pairs():
    x = sphere(50, 8)
    assert alignment(x, x) == 0
    assert alignment(x, -x).item() == pytest.approx(4)
    y = sphere(50, 8, seed=1)
    naive = sum(float(((a - b) ** 2).sum()) for a, b in zip(x, y, strict=True)) / 50
    assert alignment(x, y).item() == pytest.approx(naive)


def test_uniformity_equals_a_loop_over_pairs_and_is_zero_for_one_point():
    x = sphere(20, 5)
    terms = [math.exp(-2 * float(((x[i] - x[j]) ** 2).sum())) for i in range(20) for j in range(i)]
    assert uniformity(x).item() == pytest.approx(math.log(sum(terms) / len(terms)))
    assert uniformity(x[:1].expand(20, -1)).item() == pytest.approx(0, abs=1e-6)


def test_rankme_counts_directions_that_are_used_equally():
    for rank in (1, 3, 7):
        axes = torch.eye(7)[:rank].repeat(4, 1)  # equal singular values
        assert rankme(axes).item() == pytest.approx(rank, rel=1e-4)
    values = torch.linalg.svdvals(sphere(30, 6).float())
    shares = values / values.sum() + 1e-7  # arXiv:2210.02885, eq. 1 and 2
    expected = math.exp(-sum(float(p) * math.log(float(p)) for p in shares))
    assert rankme(sphere(30, 6)).item() == pytest.approx(expected, rel=1e-5)


def test_spread_is_near_one_for_random_directions_and_zero_for_a_single_one():
    assert spread(sphere(2000, 64)).item() == pytest.approx(1, abs=0.02)
    assert spread(sphere(1, 64).expand(100, -1)).item() == pytest.approx(0, abs=1e-12)
    nearly = F.normalize(torch.ones(100, 64) + 0.02 * sphere(100, 64), dim=1)
    assert spread(nearly).item() < COLLAPSED


@pytest.fixture
def views(by_images):
    batching = ViewBatching(Augmentation({}), batch_size=64, views=2)
    batching.bind(by_images.train, seed=0, device=CPU)
    return batching


@pytest.fixture
def episodes(by_classes):
    batching = EpisodeBatching(Augmentation({}), n_way=5, k_shot=1, n_query=2, tasks_per_batch=2)
    batching.bind(by_classes.train, seed=0, device=CPU)
    return batching


def test_it_is_the_same_each_time_and_disturbs_neither_model_nor_generators(small, by_images, views):
    diagnostics, algorithm = Diagnostics.of(by_images, views, CPU), small()
    before, generator = copy.deepcopy(algorithm.state_dict()), torch.get_rng_state()
    first, second = diagnostics(algorithm), diagnostics(algorithm)
    assert first == second
    assert list(first) == diagnostics.names
    assert all(math.isfinite(value) for value in first.values())
    assert 0 <= first["online_knn"] <= 1
    assert algorithm.training
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, algorithm.state_dict()[name]) for name, value in before.items())


def test_it_never_looks_at_a_test_image(by_images, views):
    diagnostics = Diagnostics.of(by_images, views, CPU)
    test = {image.numpy().tobytes() for image in by_images.test.images}
    own = {image.numpy().tobytes() for part in (by_images.train, by_images.validation) for image in part.images}
    for images in (diagnostics.gallery, diagnostics.queries, (diagnostics.first * 255).round().byte()):
        seen = {image.contiguous().numpy().tobytes() for image in images}
        assert seen <= own
        assert not (seen & (test - own))


def test_pairs_of_episodes_are_two_images_of_a_class(by_classes, episodes):
    diagnostics = Diagnostics.of(by_classes, episodes, CPU)
    label = {
        image.numpy().tobytes(): int(number)
        for image, number in zip(by_classes.train.images, by_classes.train.labels, strict=True)
    }
    pairs = [
        (label[a.numpy().tobytes()], label[b.numpy().tobytes()])
        for a, b in zip(diagnostics.first, diagnostics.second, strict=True)
    ]
    assert len(pairs) > 100
    assert all(one == other for one, other in pairs)
    assert "online_knn" not in diagnostics.names  # no validation


def test_pairs_of_pseudo_tasks_without_labels_are_an_image_and_its_view(by_classes):
    train = replace(by_classes.train, labels=None, class_names=())
    batching = PseudoEpisodeBatching(Augmentation({"flip": HorizontalFlip(1.0)}), 5, 1, 2, 3, None)
    batching.bind(train, seed=0, device=CPU)
    diagnostics = Diagnostics.of(replace(by_classes, train=train), batching, CPU)
    assert torch.equal(diagnostics.first, train.images[batching.sources(0).flatten()].float() / 255)
    assert torch.equal(diagnostics.second, diagnostics.first.flip(-1))
    assert diagnostics.labels is None


def test_there_is_no_online_knn_if_train_has_other_classes_than_validation(by_images, views):
    clusters = replace(by_images.train, class_names=tuple(f"cluster {n}" for n in by_images.train.class_names))
    assert Diagnostics.of(replace(by_images, train=clusters), views, CPU).queries is None


def test_online_knn_is_high_for_queries_from_the_gallery_and_low_for_wrong_labels(small, by_images, views):
    diagnostics, algorithm = Diagnostics.of(by_images, views, CPU), small()
    alike = Diagnostics(
        diagnostics.first,
        diagnostics.second,
        diagnostics.gallery,
        diagnostics.gallery_labels,
        diagnostics.gallery[:50],
        diagnostics.gallery_labels[:50],
    )
    other = Diagnostics(
        diagnostics.first,
        diagnostics.second,
        diagnostics.gallery,
        diagnostics.gallery_labels,
        diagnostics.gallery[:50],
        diagnostics.gallery_labels[50:100],
    )
    assert alike(algorithm)["online_knn"] > 0.8 > 0.5 > other(algorithm)["online_knn"]
