"""Tasks of Meta-Dataset's sizes: their bounds, their distributions, and that a task is a function of its number."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from ssl_runner.algorithms.algorithm import class_means
from ssl_runner.algorithms.maml import MAML
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.augmentation.geometry import HorizontalFlip
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.task_augmentation import TaskAugmentation
from ssl_runner.data.episodes.varied_batching import STREAM, VariedEpisodeBatching
from ssl_runner.data.episodes.varied_tasks import META_DATASET, Limits, VariedTaskSampler
from ssl_runner.errors import ConfigError
from ssl_runner.runtime import process_group, randomness
from ssl_runner.wiring.compatibility import refuse_head

CPU = torch.device("cpu")


def dataset(counts, domains=None) -> Dataset:
    """Classes of the given sizes, in turns as long as they have images left; each pixel is the image's number."""
    turns = sorted((turn, label) for label, count in enumerate(counts) for turn in range(count))
    labels = torch.tensor([label for _, label in turns])
    images = torch.arange(len(labels)).view(-1, 1, 1, 1).remainder(256).to(torch.uint8)
    names = tuple(f"class {label}" for label in range(len(counts)))
    return Dataset("toys/train", images, labels, names, None, "toys", domains)


def sampler(counts, limits=META_DATASET, domains=None) -> VariedTaskSampler:
    return VariedTaskSampler(dataset(counts, domains), limits, "change something")


@given(
    counts=st.lists(st.integers(2, 60), min_size=5, max_size=30),
    least=st.integers(1, 5),
    most=st.integers(5, 40),
    n_query=st.integers(1, 12),
    support_size=st.integers(40, 200),
    per_class=st.integers(1, 60),
    imbalance=st.floats(1, 8),
    number=st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None)
def test_every_task_keeps_the_limits_and_has_each_image_once(
    counts, least, most, n_query, support_size, per_class, imbalance, number
):
    source = dataset(counts)
    limits = Limits(least, most, n_query, support_size, per_class, imbalance)
    task = VariedTaskSampler(source, limits, "")(3, "tasks", number)
    ways, shots = task.n_way, task.shots
    assert least <= ways <= min(most, len(counts))
    assert len(shots) == ways and int(shots.min()) >= 1
    assert task.support.shape == task.support_labels.shape == (1, int(shots.sum()))
    assert task.support_labels[0].bincount().tolist() == shots.tolist()
    assert int(shots.sum()) <= support_size  # floors, and at most what is left
    classes = source.labels[task.query].view(ways, -1)
    assert (classes == classes[:, :1]).all(), "queries are sorted by class, equally many of each"
    chosen = classes[:, 0]
    assert len(set(chosen.tolist())) == ways
    assert (source.labels[task.support[0]] == chosen[task.support_labels[0]]).all()
    sizes = torch.tensor(counts)[chosen]
    queries = classes.shape[1]
    assert queries == min(n_query, int(sizes.min()) // 2)
    assert (shots + queries <= sizes).all()
    images = [*task.support[0].tolist(), *task.query[0].tolist()]
    assert len(set(images)) == len(images)


def naive(source: Dataset, limits: Limits, seed: int, number: int):
    """Ways, shots by class name and queries, after the paper's equations, in a loop over classes."""
    drawn = [float(value) for value in randomness.uniforms(seed, "tasks/sizes", number, 1, 3 + 2 * limits.most_ways)[0]]
    counts = source.labels.bincount().tolist()
    most = min(limits.most_ways, len(counts))
    ways = limits.least_ways + math.floor(drawn[1] * (most - limits.least_ways + 1))
    order = list(range(len(counts)))
    for place in range(ways):  # a Fisher-Yates shuffle
        other = place + math.floor(drawn[3 + place] * (len(counts) - place))
        order[place], order[other] = order[other], order[place]
    sizes = [counts[label] for label in order[:ways]]
    queries = min(limits.n_query, min(size // 2 for size in sizes))
    beta = 1 - drawn[2]
    total = sum(math.ceil(beta * min(limits.support_per_class, size - queries)) for size in sizes)
    total = min(total, limits.support_size)
    low, high = -math.log(limits.imbalance), math.log(limits.imbalance)
    alphas = [low + (high - low) * drawn[3 + limits.most_ways + place] for place in range(ways)]
    weights = [size * math.exp(alpha) for size, alpha in zip(sizes, alphas, strict=True)]
    shots = [
        min(math.floor(weight / sum(weights) * (total - ways)) + 1, size - queries)
        for weight, size in zip(weights, sizes, strict=True)
    ]
    return order[:ways], shots, queries


@pytest.mark.parametrize("limits", [META_DATASET, Limits(2, 12, 3, 40, 10, 1.0), Limits(5, 5, 10, 500, 100, 4.0)])
def test_sizes_equal_those_of_the_papers_equations_in_a_loop(limits):
    source = dataset([20 + 17 * label % 190 for label in range(60)])
    made = VariedTaskSampler(source, limits, "")
    for number in range(200):
        task = made(5, "tasks", number)
        classes, shots, queries = naive(source, limits, 5, number)
        assert source.labels[task.query[0].view(task.n_way, -1)[:, 0]].tolist() == classes
        assert task.shots.tolist() == shots
        assert task.query.shape[1] == queries * len(classes)


def test_ways_are_uniform_between_5_and_50_or_the_number_of_classes():
    for n, most in ((60, 50), (12, 12)):
        made = sampler([30] * n)
        ways = np.array([len(made.drawn(0, "tasks", number)[0]) for number in range(6000)])
        assert (ways.min(), ways.max()) == (5, most)
        assert chisquare(np.bincount(ways)[5:]).pvalue > 0.001


def test_classes_and_images_are_uniform():
    source = dataset([8] * 10)
    made = VariedTaskSampler(source, META_DATASET, "")
    tasks = [made(0, "tasks", number) for number in range(4000)]
    firsts = torch.cat([source.labels[task.query[0, :1]] for task in tasks])
    assert chisquare(firsts.bincount(minlength=10).numpy()).pvalue > 0.001
    for name in ("support", "query"):
        counts = torch.cat([getattr(task, name)[0] for task in tasks]).bincount(minlength=80)
        for label in range(10):
            assert chisquare(counts[source.labels == label].numpy()).pvalue > 0.001


def test_support_is_uniform_in_size_up_to_100_images_a_class_and_500_in_all():
    fixed = Limits(5, 5, 10, 500, 100, 2.0)
    made = sampler([1000] * 5, fixed)
    totals = np.array([made.drawn(1, "tasks", number)[1].shots.sum() for number in range(4000)])
    assert totals.max() <= 500 < 1.02 * totals.max()
    assert kstest(totals / 500, "uniform").statistic < 0.03
    crowded = sampler([1000] * 50, Limits(50, 50, 10, 500, 100, 2.0))
    totals = np.array([crowded.drawn(1, "tasks", number)[1].shots.sum() for number in range(2000)])
    assert totals.max() <= 500 and totals.min() >= 50
    assert np.mean(totals > 450) > 0.85  # nine of ten betas ask for more than 500 images


def test_shots_vary_around_the_sizes_of_classes_by_at_most_the_imbalance():
    counts = [100, 200, 300, 400, 500]
    made = sampler(counts, Limits(5, 5, 10, 500, 100, 2.0))
    ratios = []
    for number in range(2000):
        classes, sizes = made.drawn(2, "tasks", number)
        if sizes.shots.sum() > 300:
            per_image = (sizes.shots - 1) / np.array(counts)[classes]
            ratios.append(per_image.max() / per_image.min())
    assert 3.0 < max(ratios) < 4.5  # e^(2 log 2) = 4, and flooring
    assert np.median(ratios) > 1.8
    even = sampler(counts, Limits(5, 5, 10, 500, 100, 1.0))
    classes, sizes = even.drawn(2, "tasks", 0)
    shares = (sizes.shots - 1) / (np.array(counts)[classes] / sum(counts))
    assert shares.max() - shares.min() < 1 / 0.06


def test_a_task_depends_only_on_seed_stream_and_number():
    made = sampler([15] * 20)
    first, again = made(4, "tasks", 7), sampler([15] * 20)(4, "tasks", 7)
    assert first.support.equal(again.support) and first.query.equal(again.query) and first.shots.equal(again.shots)
    for other in (made(5, "tasks", 7), made(4, "others", 7), made(4, "tasks", 8)):
        assert other.support.shape != first.support.shape or not other.support.equal(first.support)


def test_labels_are_permuted_so_that_memorising_scores_chance():
    source = dataset([20] * 5)
    made = VariedTaskSampler(source, Limits(5, 5, 3, 50, 10, 2.0), "")
    table = torch.zeros(5, 5)
    for number in range(3000):
        task = made(0, "tasks", number)
        places = (source.labels[task.query].flatten(), task.query_labels.flatten())
        table.index_put_(places, torch.ones(1), accumulate=True)
    assert (table.amax(dim=1).sum() / table.sum()).item() == pytest.approx(0.2, abs=0.015)


def test_a_task_has_one_domain_and_all_domains_are_equally_frequent():
    domains = ("a",) * 6 + ("b",) * 30
    source = dataset([12] * 36, domains)
    made = VariedTaskSampler(source, META_DATASET, "")
    seen = np.zeros(2)
    for number in range(1500):
        classes, _ = made.drawn(0, "tasks", number)
        (domain,) = {domains[label] for label in classes}
        seen[domain == "b"] += 1
        assert len(classes) <= (6 if domain == "a" else 30)
    assert chisquare(seen).pvalue > 0.001
    within = made.within("b")
    assert within.domains == ()
    assert min(min(within.drawn(0, "tasks", number)[0]) for number in range(100)) >= 6


def test_too_few_classes_and_single_images_are_refused_together():
    with pytest.raises(ConfigError) as caught:
        VariedTaskSampler(dataset([9, 9, 1], ("x", "x", "y")), META_DATASET, "lower it")
    least = "tasks of different sizes have at least 5 ways, but domain"
    assert caught.value.problems == [
        f"{least} 'x' of split 'train' of toys has 2 classes; lower it",
        f"{least} 'y' of split 'train' of toys has 1 classes; lower it",
        "a class needs 2 images, one for support and one query, but 1 classes of split 'train' of toys have fewer, "
        "first 'class 2' with 1; leave them out, or choose another dataset",
    ]
    with pytest.raises(ValueError, match="toys/train has no labels"):
        VariedTaskSampler(replace(dataset([9] * 5), labels=None), META_DATASET, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_query": 0}, "n_query=0; it must be at least 1"),
        ({"support_per_class": 0}, "support_per_class=0; it must be at least 1"),
        ({"imbalance": 0.5}, "imbalance=0.5; it must be at least 1"),
        ({"imbalance": math.nan}, "imbalance=nan; it must be at least 1"),
        ({"imbalance": math.inf}, "imbalance=inf; give a number, 2 as in Meta-Dataset"),
        ({"support_size": 49}, "support_size=49, but a task of 50 ways needs an image of each class; give at least 50"),
        ({"n_way": [6, 5]}, r"n_way=\[6, 5\] is a reversed range"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        batching(**change)


def batching(bound=None, seed=0, **change) -> VariedEpisodeBatching:
    keys = {"n_way": [5, 50], "n_query": 10, "support_size": 500, "support_per_class": 100, "imbalance": 2}
    keys |= {"task_augmentation": None, "augmentation": Augmentation({})}
    made = VariedEpisodeBatching(**keys | change)
    if bound is not None:
        made.bind(bound, seed, CPU)
    return made


@pytest.fixture(scope="module")
def source() -> Dataset:
    return dataset([9 + label for label in range(12)])


def test_a_batch_is_the_task_of_its_step_with_the_images_and_labels_of_the_dataset(source):
    made = batching(source, seed=3)
    for step in range(5):
        batch, task = made.batch(step), made.sampler(3, STREAM, step)
        assert batch.n_way == task.n_way
        assert batch.support_labels.equal(task.support_labels) and batch.query_labels.equal(task.query_labels)
        for images, places in ((batch.support_images, task.support), (batch.query_images, task.query)):
            assert (images * 255).round().to(torch.uint8).equal(source.images[places])
        means = class_means(batch.support_images.flatten(2), batch.support_labels, batch.n_way)
        for label in range(batch.n_way):
            own = batch.support_images[0][batch.support_labels[0] == label].flatten(1)
            torch.testing.assert_close(means[0, label], own.mean(dim=0))
    assert len({made.batch(step).support_labels.shape[1] for step in range(20)}) > 5


def test_several_processes_are_refused(source, monkeypatch):
    monkeypatch.setattr(process_group, "size", lambda: 2)
    with pytest.raises(ValueError, match=r"a step has one task, which 2 processes cannot share; start one process, or"):
        batching(source)


def test_images_and_tasks_are_augmented_by_the_draws_of_their_step(source):
    whole = replace(source, images=torch.rand(len(source), 1, 4, 4).mul(255).byte())
    plain = batching(whole)
    flipped = batching(whole, augmentation=Augmentation({"flip": HorizontalFlip(1.0)}))
    inverted = batching(whole, task_augmentation=TaskAugmentation(0, 1.0, 0, 0))
    turned = batching(whole, task_augmentation=TaskAugmentation(1.0, 0, 0, 0))
    for step in range(3):
        expected = plain.batch(step)
        assert flipped.batch(step).support_images.equal(expected.support_images.flip(-1))
        torch.testing.assert_close(inverted.batch(step).query_images, 1 - expected.query_images)
        batch = turned.batch(step)
        for label in range(batch.n_way):  # every image of a class is turned alike
            pairs = [
                (new[0][labels[0] == label], old[0][labels[0] == label])
                for new, old, labels in (
                    (batch.support_images, expected.support_images, batch.support_labels),
                    (batch.query_images, expected.query_images, batch.query_labels),
                )
            ]
            fitting = [n for n in range(4) if all(new.equal(old.rot90(n, (-2, -1))) for new, old in pairs)]
            assert len(fitting) == 1


def test_the_largest_batch_is_at_least_as_large_as_any_and_the_mean_is_near_theirs(source):
    made = batching(source)

    def size(batch):
        return batch.support_labels.shape[1] + batch.query_labels.shape[1]

    sizes = [size(made.batch(step)) for step in range(400)]
    assert max(sizes) <= size(made.largest())
    assert made.images_per_step == pytest.approx(np.mean(sizes), rel=0.1)


def test_a_head_of_fixed_width_needs_one_number_of_ways(source):
    assert batching(n_way=5).n_outputs == 5
    assert (batching().n_outputs, batching().most_ways) == (None, 50)
    with pytest.raises(
        ConfigError, match=r"MAML classifies with its head.*these batches have no fixed number of classes"
    ):
        refuse_head(MAML, None, batching())
