"""Diagnostics: closed forms, the images they use, and no side effects."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_runner.algorithms.masked import Masked
from ssl_runner.algorithms.momentum import Momentum
from ssl_runner.algorithms.patch_targets import Features
from ssl_runner.data.augmentation import Augmentation, HorizontalFlip
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.data.episodes.episode_batching import EpisodeBatching
from ssl_runner.data.episodes.pseudo_episodes import PseudoEpisodeBatching
from ssl_runner.data.masking.random import RandomMasking
from ssl_runner.evaluation.diagnostics import COLLAPSED, Diagnostics, alignment, lidar, rankme, spread, uniformity
from ssl_runner.losses.negative_cosine import NegativeCosine
from ssl_runner.losses.patches import MeanSquaredError
from ssl_runner.models.network import Encoder, Network
from ssl_runner.models.patches import Grid
from ssl_runner.models.predictors import LinearPredictor
from ssl_runner.models.vit import ViT

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


def groups_of(means: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    """Embeddings (G, 2 M, D) around means (G, D): plus and minus each row of within (M, D)."""
    return means[:, None] + torch.cat([within, -within])


@pytest.mark.parametrize("width", [8, 40, 500])  # in the space itself, and in the span of fewer embeddings
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_lidar_counts_the_directions_that_tell_groups_apart_equally_well(width, rank):
    axes = torch.eye(width, dtype=torch.float64)
    means = torch.cat([axes[:rank], -axes[:rank]])  # mean 0, equal variance in each of these directions
    within = 0.1 * axes[:8]
    assert lidar(groups_of(means, within)).item() == pytest.approx(rank, rel=1e-3)
    # views that differ much in all but the first of these directions leave one that tells groups apart
    within[1:rank] *= 1e4
    assert lidar(groups_of(means, within)).item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("width", [3, 12, 100])
def test_lidar_equals_the_papers_matrix_written_out(width):
    generator = torch.Generator().manual_seed(width)
    found = torch.randn(6, 4, width, generator=generator, dtype=torch.float64)
    found += 3 * torch.randn(6, 1, width, generator=generator, dtype=torch.float64)
    grand = sum(found[i].mean(dim=0) for i in range(6)) / 6
    between, within = torch.zeros(width, width, dtype=torch.float64), 1e-4 * torch.eye(width, dtype=torch.float64)
    for group in found:
        mean = group.mean(dim=0)
        between += torch.outer(mean - grand, mean - grand) / 6
        for one in group:
            within += torch.outer(one - mean, one - mean) / 24
    spectrum, axes = torch.linalg.eigh(within)
    root = axes @ torch.diag(spectrum.rsqrt()) @ axes.T
    values = torch.linalg.eigvalsh(root @ between @ root).clamp_min(0)
    shares = values / values.sum() + 1e-7
    expected = math.exp(-sum(float(p) * math.log(float(p)) for p in shares))
    assert lidar(found).item() == pytest.approx(expected, rel=1e-3)
    assert lidar(found.float()).item() == pytest.approx(expected, rel=1e-3)
    assert lidar(7 + found @ torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))[0]).item() == (
        pytest.approx(expected, rel=1e-3)
    )


def test_lidar_of_embeddings_that_are_not_finite_is_not_a_number():
    assert math.isnan(lidar(torch.full((3, 2, 4), torch.inf)))
    assert lidar(torch.ones(3, 2, 4)).isfinite()


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
    assert list(first) == diagnostics.names(algorithm)
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


def test_groups_of_views_are_views_of_one_training_image_by_the_runs_augmentation(by_images):
    batching = ViewBatching(Augmentation({"flip": HorizontalFlip(0.5)}), batch_size=64, views=1)
    batching.bind(by_images.train, seed=0, device=CPU)
    watched = Diagnostics.of(by_images, batching, CPU).groups
    assert watched.shape == (64, 4, 1, 8, 8)
    train = {image.numpy().tobytes() for image in by_images.train.images}
    flipped = 0
    for views in (watched * 255).round().byte():
        kinds = {view.numpy().tobytes() for view in views}
        assert kinds <= {views[0].numpy().tobytes(), views[0].flip(-1).contiguous().numpy().tobytes()}
        assert any(image.contiguous().numpy().tobytes() in train for image in (views[0], views[0].flip(-1)))
        flipped += len(kinds) == 2
    assert 40 < flipped < 64


def test_groups_of_episodes_are_images_of_one_class(by_classes, episodes):
    watched = Diagnostics.of(by_classes, episodes, CPU).groups
    label = {
        image.numpy().tobytes(): int(number)
        for image, number in zip(by_classes.train.images, by_classes.train.labels, strict=True)
    }
    found = [[label[image.numpy().tobytes()] for image in group] for group in watched]
    assert sorted(found) == [[number] * 4 for number in range(5)]


def test_without_an_augmentation_there_is_no_lidar(small, by_images, views):
    assert "lidar" not in Diagnostics.of(by_images, views, CPU)(small())


def test_student_and_teacher_are_watched_each_on_its_own(small, by_images, views):
    network = small().network.eval()
    algorithm = Momentum(network, NegativeCosine(), None, 0.9, 0.9, 0, 1, 0.0, 1, "student")
    diagnostics = Diagnostics.of(by_images, views, CPU)
    found = diagnostics(algorithm)
    assert found["student_std"] == found["teacher_std"] > COLLAPSED
    with torch.no_grad():  # a teacher that answers the same to every image
        algorithm.teacher.head.weight.zero_()
    found = diagnostics(algorithm)
    assert found["student_std"] > COLLAPSED > found["teacher_std"]
    assert list(found) == diagnostics.names(algorithm)
    assert found["embedding_std"] > COLLAPSED


@pytest.mark.parametrize("product", ["student", "teacher"])
def test_a_masked_method_without_image_loss_and_with_one_view_has_all_diagnostics(by_images, product):
    torch.manual_seed(0)
    vit = ViT(1, 8, "tiny", 2, features="mean")
    vit.body.blocks = vit.body.blocks[:1]
    network = Network(Encoder(vit, (1, 8, 8), [0.3], [0.4]), nn.Identity())
    told = MeanSquaredError(), Features(1, "none"), LinearPredictor, "replaced"
    algorithm = Masked(network, *told, None, 1.0, None, 1.0, 0.9, 0.9, 0.0, product, "cosine", 1.0, 1.0)
    batching = ViewBatching(Augmentation({"flip": HorizontalFlip(0.5)}), batch_size=32, views=1)
    batching.masking, batching.grid = RandomMasking(0.5, 1, 1), Grid(4, 4)
    batching.bind(by_images.train, seed=0, device=CPU)
    assert batching.batch(0).masks is not None
    diagnostics = Diagnostics.of(by_images, batching, CPU)
    found = diagnostics(algorithm)
    assert list(found) == diagnostics.names(algorithm)
    assert {"lidar", "rankme", "student_std", "teacher_std", "online_knn"} <= found.keys()
    assert all(math.isfinite(value) for value in found.values())


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
    assert diagnostics.queries is None  # no validation


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
