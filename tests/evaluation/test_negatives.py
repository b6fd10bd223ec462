"""Metrics of negatives: closed forms, a naive loop, and the diagnostics of each algorithm."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_runner.algorithms.contrastive import Contrastive
from ssl_runner.algorithms.momentum import Momentum
from ssl_runner.algorithms.stop_gradient import StopGradient
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.evaluation.diagnostics import Diagnostics
from ssl_runner.evaluation.negatives import figures, kinship
from ssl_runner.losses.barlow_twins import BarlowTwins
from ssl_runner.losses.hard_negative import HardNegative
from ssl_runner.losses.info_nce import InfoNCE
from ssl_runner.losses.loss import Embeddings
from ssl_runner.losses.negatives import Negatives, softmax_negatives
from ssl_runner.losses.nnclr import NNCLR
from ssl_runner.losses.nt_xent import NTXent
from ssl_runner.losses.triplet import Triplet
from ssl_runner.runtime.step_context import StepContext

CPU = torch.device("cpu")
CLOCK = StepContext(0, 1, 0, CPU)
N = 6
LABELS = torch.tensor([0, 1, 0, 2, 1, 0])
MINED = {
    "effective_negatives",
    "hardest_negative_similarity",
    "positive_similarity",
    "negatives_above_positive",
    "false_negative_rate",
    "false_negative_base_rate",
}


def online() -> torch.Tensor:
    return torch.randn(2, N, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def of(found: Negatives, labels: torch.Tensor | None = LABELS) -> dict[str, float]:
    return {name: float(value) for name, value in figures(found, labels).items()}


def test_equal_similarities_make_every_negative_count():
    found = of(softmax_negatives(torch.ones(2, N, 3, dtype=torch.float64), 5.0))
    assert found["effective_negatives"] == pytest.approx(2 * N - 2)
    assert found["false_negative_rate"] == pytest.approx(found["false_negative_base_rate"])
    assert found["negatives_above_positive"] == 0


def test_one_hard_negative_is_the_only_one_that_counts():
    points = torch.eye(N, dtype=torch.float64).repeat(2, 1, 1)
    points[1] = torch.roll(points[0], 1, 0)  # the second view of each image is the first of another
    found = of(softmax_negatives(points, 1e3))
    assert found["effective_negatives"] == pytest.approx(1)
    assert found["hardest_negative_similarity"] == pytest.approx(1)
    assert found["positive_similarity"] == pytest.approx(0)
    assert found["negatives_above_positive"] == pytest.approx(1 / (2 * N - 2))


@pytest.mark.parametrize("sharpness", [0.0, 2.0, 50.0])
@pytest.mark.parametrize("lost", [(), (0, 7)])
def test_every_metric_equals_a_loop_over_the_anchors_with_negatives(sharpness, lost):
    shown = softmax_negatives(online(), sharpness)
    weight = shown.weight.clone()
    weight[list(lost)] = 0
    labels = LABELS.repeat(2).tolist()
    rows = []
    for i in range(2 * N):
        if i in lost:
            continue
        s, w = shown.similarity[i].tolist(), weight[i].tolist()
        others = [k for k in range(2 * N) if k % N != i % N]
        own = [k for k in others if labels[k] == labels[i]]
        rows.append(
            {
                "effective_negatives": math.exp(-sum(w[k] * math.log(w[k]) for k in others)),
                "hardest_negative_similarity": max(s[k] for k in others),
                "negatives_above_positive": sum(s[k] > shown.positive[i].item() for k in others) / len(others),
                "false_negative_rate": sum(w[k] for k in own),
                "false_negative_base_rate": len(own) / len(others),
            }
        )
    found = of(replace(shown, weight=weight))
    assert found.pop("positive_similarity") == pytest.approx(shown.positive.mean().item())
    assert found.pop("effective_negatives") == pytest.approx(sum(r["effective_negatives"] for r in rows) / (2 * N))
    for name, value in found.items():
        assert value == pytest.approx(sum(row[name] for row in rows) / len(rows)), name


def test_a_loss_without_labels_has_false_negatives_above_the_base_rate_and_a_loss_with_labels_has_none():
    class_points = F.one_hot(LABELS, 3).double() + 0.1 * online()[..., :3]
    found = of(softmax_negatives(class_points, 40.0))
    # 5 of 6 images have kin; by chance it would be 2 of 5 images for three of them, and 1 of 5 for two
    assert found["false_negative_rate"] == pytest.approx(5 / 6)
    assert found["false_negative_base_rate"] == pytest.approx((3 * 2 + 2 * 1) / 30)
    mined = Triplet(0.2, "batch_hard").negatives(Embeddings(online(), labels=LABELS), CLOCK)
    assert mined is not None
    assert of(mined)["false_negative_rate"] == 0 < of(mined)["false_negative_base_rate"]


def test_without_any_negatives_there_is_no_hardest_one():
    shown = softmax_negatives(online(), 1.0)
    found = of(replace(shown, weight=torch.zeros_like(shown.weight)))
    assert found == {"effective_negatives": 0, "positive_similarity": pytest.approx(shown.positive.mean().item())}


def test_without_labels_there_are_no_rates():
    found = of(softmax_negatives(online(), 1.0), None)
    assert set(found) == {name for name in MINED if "false" not in name}


def test_views_of_one_image_do_not_count_as_pairs():
    found = InfoNCE(0.2).negatives(Embeddings(online()[:1], target=online()), CLOCK)
    assert found is not None
    own, other = kinship(found, LABELS)
    assert own.shape == (N, 2 * N)
    for i in range(N):
        for k in range(2 * N):
            assert bool(other[i, k]) == (k % N != i)
            assert bool(own[i, k]) == (k % N != i and bool(LABELS[k % N] == LABELS[i]))


def test_negatives_without_images_have_all_metrics_except_those_of_classes():
    shown = softmax_negatives(online(), 2.0)
    expected = {name: value for name, value in of(shown).items() if "false" not in name}
    for remembered in (1, 2 * N):
        assert of(replace(shown, remembered=remembered)) == expected
    part = replace(shown, remembered=N).pictured()
    assert part.remembered == 0
    assert torch.equal(part.similarity, shown.similarity[:, :N]) and torch.equal(part.weight, shown.weight[:, :N])


@pytest.fixture
def diagnostics(by_images):
    batching = ViewBatching(Augmentation({}), batch_size=64, views=2)
    batching.bind(by_images.train, seed=0, device=CPU)
    return Diagnostics.of(by_images, batching, CPU)


@pytest.fixture
def network(small):
    return small().network


def identity(width: int, _: int | None) -> nn.Module:
    return nn.Linear(width, width, bias=False)


def momentum(network, queue_size: int) -> Momentum:
    torch.manual_seed(0)
    return Momentum(network, InfoNCE(0.2), identity, 0.9, 0.9, queue_size, 1, 0.0, 1, "teacher")


def test_diagnostics_include_negatives_only_if_the_loss_returns_them(diagnostics, network):
    silent = Contrastive(network, BarlowTwins(0.005), 1)
    common = set(diagnostics.names(silent))
    assert set(diagnostics(Contrastive(network, HardNegative(0.5, 0.1, 1.0), 1))) == common | MINED
    assert set(diagnostics(momentum(network, 0))) == common | {"student_std", "teacher_std"} | MINED
    assert set(diagnostics(silent)) == common
    assert diagnostics.negatives(silent) is None
    unlabelled = replace(diagnostics, labels=None)
    assert set(unlabelled(Contrastive(network, NTXent(0.5), 1))) == common | {n for n in MINED if "false" not in n}
    assert set(unlabelled(Contrastive(network, Triplet(0.2, "batch_hard"), 1))) == common


def test_diagnostics_of_a_queue_need_no_image_and_those_of_nnclr_are_complete(diagnostics, network):
    queued = momentum(network, 16)
    assert set(diagnostics(queued)) == set(diagnostics.names(queued)) | {name for name in MINED if "false" not in name}
    found = diagnostics.negatives(queued)
    assert found is not None and found.weight.shape == (2 * len(diagnostics.first), 16) and found.remembered == 16
    with torch.no_grad():
        queued.eval()
        student = F.normalize(queued.predictor(queued.network(diagnostics.first)), dim=1)
    torch.testing.assert_close(found.similarity[: len(student)], student @ queued.queue.items.T, rtol=1e-4, atol=1e-5)
    nnclr = StopGradient(network, NNCLR(0.2), identity, False, 16, 1)
    assert set(diagnostics(nnclr)) == set(diagnostics.names(nnclr)) | MINED
    found = diagnostics.negatives(nnclr)
    assert found is not None and found.remembered == 0 and found.weight.shape == (2 * len(diagnostics.first),) * 2


def test_diagnostics_give_the_loss_the_same_input_as_training_in_evaluation_mode(diagnostics, network):
    algorithm = momentum(network, 0)
    with torch.no_grad():
        algorithm.teacher.head.weight.add_(torch.randn(10, 128))
        views = torch.stack([diagnostics.first, diagnostics.second])
        algorithm.eval()
        online = torch.stack([algorithm.predictor(algorithm.network(images)) for images in views])
        target = torch.stack([algorithm.teacher(images) for images in views])
    expected = InfoNCE(0.2).negatives(Embeddings(online, target=target), CLOCK)
    found = diagnostics.negatives(algorithm)
    assert found is not None and expected is not None
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-6)
    predictive = StopGradient(network, InfoNCE(0.2), identity, False, 0, 1)
    found = diagnostics.negatives(predictive)
    with torch.no_grad():
        predictive.eval()
        target = torch.stack([network(images) for images in views])
        online = torch.stack([predictive.predictor(images) for images in target])
    expected = InfoNCE(0.2).negatives(Embeddings(online, target=target), CLOCK)
    assert found is not None and expected is not None
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [NTXent(0.5), Triplet(0.2, "distance_weighted")])
def test_it_is_the_same_each_time_and_disturbs_neither_model_nor_generators(diagnostics, network, loss):
    algorithm = Contrastive(network, loss, 1)
    algorithm.train()
    before, state = copy.deepcopy(algorithm.state_dict()), torch.get_rng_state()
    first, second = diagnostics.negatives(algorithm), diagnostics.negatives(algorithm)
    assert first is not None and second is not None
    assert torch.equal(first.weight, second.weight)
    assert not first.weight.requires_grad and algorithm.training
    assert diagnostics(algorithm) == diagnostics(algorithm)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, algorithm.state_dict()[name]) for name, value in before.items())


def test_labels_do_not_affect_the_negatives(diagnostics, network):
    algorithm = Contrastive(network, NTXent(0.5), 1)
    shuffled = replace(diagnostics, labels=diagnostics.labels.flip(0))
    one, other = diagnostics.negatives(algorithm), shuffled.negatives(algorithm)
    assert one is not None and other is not None and torch.equal(one.weight, other.weight)
    named = {name: value for name, value in diagnostics(algorithm).items() if "false" not in name}
    assert named.items() <= shuffled(algorithm).items()
