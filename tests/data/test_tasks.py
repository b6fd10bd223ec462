"""Episodes as indices: distinct, disjoint, of the right classes, and uniform."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.data.episodes.class_index import sample
from ssl_runner.data.episodes.episode_batching import EpisodeBatching
from ssl_runner.data.episodes.tasks import TaskSampler
from ssl_runner.data.sources.digits import digits
from ssl_runner.errors import ConfigError
from ssl_runner.evaluation.fixed_tasks import manifest
from ssl_runner.runtime import process_group, randomness


def dataset(counts: list[int], seed: int = 0) -> Dataset:
    """Classes of the given sizes, shuffled."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    names = tuple(f"class {label}" for label in range(len(counts)))
    return Dataset("toys/train", torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, names, None, "toys")


def draw(sampler: TaskSampler, tasks: int, seed: int = 0):
    return sampler(randomness.uniforms(seed, "tasks", 0, tasks, sampler.columns))


@given(
    n_way=st.integers(1, 6),
    k_shot=st.integers(1, 4),
    n_query=st.integers(1, 4),
    extra=st.lists(st.integers(0, 5), min_size=6, max_size=9),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_images_are_distinct_disjoint_and_of_one_class_per_label(n_way, k_shot, n_query, extra, seed):
    source = dataset([k_shot + n_query + more for more in extra], seed=1)
    tasks = draw(TaskSampler(source, n_way, k_shot, n_query), 8, seed)
    assert tasks.support.shape == (8, n_way * k_shot)
    assert tasks.query.shape == (8, n_way * n_query)
    for task in range(8):
        support, query = tasks.support[task].tolist(), tasks.query[task].tolist()
        assert len(set(support + query)) == n_way * (k_shot + n_query)
        places, labels = support + query, tasks.support_labels[task].tolist() + tasks.query_labels[task].tolist()
        pairs = {(label, source.labels[place].item()) for label, place in zip(labels, places, strict=True)}
        assert len(pairs) == n_way
        assert {label for label, _ in pairs} == set(range(n_way))
        assert len({true for _, true in pairs}) == n_way


@given(k=st.integers(1, 7), extra=st.integers(0, 6), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_sample_equals_that_of_a_complete_fisher_yates_shuffle(k, extra, seed):
    n = k + extra
    numbers = np.random.default_rng(seed).random(k, dtype=np.float32)
    places = list(range(n))
    for step in range(k):
        other = step + int(float(numbers[step]) * (n - step))
        places[step], places[other] = places[other], places[step]
    assert sample(numbers[None], np.array(n))[0].tolist() == places[:k]


def test_every_ordered_sample_is_equally_likely():
    drawn = sample(randomness.uniforms(0, "sample", 0, 60_000, 3), np.array(5))
    counts = np.bincount(drawn @ [25, 5, 1], minlength=125)
    assert (counts > 0).sum() == 60  # 5 * 4 * 3
    assert chisquare(counts[counts > 0]).pvalue > 0.001


def test_classes_images_and_their_part_are_uniform():
    source = dataset([4, 7, 5, 9])
    tasks = draw(TaskSampler(source, 2, 1, 2), 40_000)
    for column in (0, 1):  # each label
        classes = source.labels[tasks.support[:, column]]
        assert chisquare(classes.bincount().numpy()).pvalue > 0.001
    for label, size in enumerate([4, 7, 5, 9]):
        members = (source.labels == label).nonzero()[:, 0]
        for places in (tasks.support, tasks.query):
            counts = places.flatten().bincount(minlength=len(source))[members]
            assert len(counts) == size
            assert chisquare(counts.numpy()).pvalue > 0.001


def test_labels_are_permuted_in_each_task_so_that_memorising_only_scores_chance():
    source = dataset([6] * 5)
    tasks = draw(TaskSampler(source, 5, 1, 3), 8_000)
    # The best prediction of the label from the true class alone.
    table = torch.zeros(5, 5)
    table.index_put_(
        (source.labels[tasks.query].flatten(), tasks.query_labels.flatten()),
        torch.ones(1),
        accumulate=True,
    )
    best = table.amax(dim=1).sum() / table.sum()
    assert best.item() == pytest.approx(0.2, abs=0.01)


def test_a_task_depends_only_on_its_row():
    sampler = TaskSampler(dataset([9] * 7), 3, 2, 4)
    table = randomness.uniforms(3, "tasks", 0, 20, sampler.columns)
    whole, part = sampler(table), sampler(table[5:9])
    assert torch.equal(whole[5:9].support, part.support)
    assert torch.equal(whole[5:9].query, part.query)


def joined(*sizes: int, each: int = 6) -> Dataset:
    """Domains with these numbers of classes, numbered in turn as long as they have any left."""
    turns = [[f"domain {number}"] * size for number, size in enumerate(sizes)]
    domains = [names[turn] for turn in range(max(sizes)) for names in turns if turn < len(names)]
    return replace(dataset([each] * sum(sizes)), class_domains=tuple(domains))


@pytest.mark.parametrize("sizes", [(3, 3), (4, 9, 3), (5,)])
def test_a_task_never_mixes_domains_and_all_domains_and_classes_are_equally_frequent(sizes):
    source = joined(*sizes)
    sampler = TaskSampler(source, 3, 1, 2)
    table = randomness.uniforms(0, "tasks", 0, 30_000, sampler.columns)
    tasks = sampler(table)
    domain = torch.tensor([source.domains.index(name) for name in source.class_domains])
    classes = torch.cat([source.labels[tasks.support], source.labels[tasks.query]], dim=1)
    emitted = domain[classes]
    assert (emitted == emitted[:, :1]).all()
    assert emitted[:, 0].tolist() == sampler.drawn_domains(table).tolist()
    assert len(sizes) == 1 or chisquare(emitted[:, 0].bincount().numpy()).pvalue > 0.001
    for number, size in enumerate(sizes):
        for label in range(3):
            counts = classes[emitted[:, 0] == number, label].bincount(minlength=len(domain))[domain == number]
            assert len(counts) == size
            assert chisquare(counts.numpy()).pvalue > 0.001


def test_tasks_within_a_domain_equal_those_of_a_dataset_with_only_its_classes():
    source = joined(4, 6)
    members = [label for label, name in enumerate(source.class_domains) if name == "domain 1"]
    rows = torch.isin(source.labels, torch.tensor(members))
    labels = torch.tensor([members.index(label) for label in source.labels[rows].tolist()])
    alone = replace(source, labels=labels, class_names=("x",) * 6, class_domains=None)
    within, sampler = TaskSampler(source, 3, 2, 1).within("domain 1"), TaskSampler(alone, 3, 2, 1)
    assert within.columns == sampler.columns
    found, expected = draw(within, 50), draw(sampler, 50)
    assert torch.equal(found.support, rows.nonzero()[:, 0][expected.support])
    assert torch.equal(found.query, rows.nonzero()[:, 0][expected.query])


@pytest.mark.parametrize("extreme", [0.0, np.nextafter(np.float32(1), np.float32(0)), 1.0])
def test_the_extreme_numbers_stay_within_the_domains(extreme):
    sampler = TaskSampler(joined(3, 4, 5), 3, 1, 1)
    table = np.full((1, sampler.columns), extreme, dtype=np.float32)
    assert sampler.drawn_domains(table).item() == (0 if extreme == 0 else 2)
    assert sampler(table).support.shape == (1, 3)


def test_a_domain_with_too_few_classes_is_named():
    with pytest.raises(ConfigError) as caught:
        TaskSampler(joined(5, 2, 3), 4, 1, 1)
    assert caught.value.problems == [
        f"n_way=4, but domain 'domain {number}' of split 'train' of toys has {has} classes; lower batching.n_way"
        for number, has in ((1, 2), (2, 3))
    ]


@pytest.mark.parametrize(
    ("split", "shape", "expected"),
    [
        ("classes", (5, 1, 15), "ec41d25c053216e24cfd44947a15a0276b9f68f5c4737cd58eb54f9ca8dd7a08"),
        ("images", (3, 2, 4), "4ee4456cecdb737cca539dc865c8c8b20d35238e3808c1bf3dc2921c2fa20dec"),
    ],
)
def test_tasks_of_a_dataset_without_domains_have_not_changed(split, shape, expected):
    test = digits(split, 0.1, 0.25, [5, 0, 5], split_seed=0, size=None, channels=None).test
    sampler = TaskSampler(test, *shape)
    assert manifest(sampler(randomness.uniforms(0, "pinned", 0, 200, sampler.columns)), test) == expected


@pytest.mark.parametrize("extreme", [0.0, np.nextafter(np.float32(1), np.float32(0)), 1.0])
@pytest.mark.parametrize("n", [16, 20_000_003])
def test_the_extreme_numbers_stay_within_the_population(extreme, n):
    drawn = sample(np.full((1, 16), extreme, dtype=np.float32), np.array(n))[0]
    assert 0 <= drawn.min() <= drawn.max() < n
    assert len(set(drawn.tolist())) == 16


def test_too_many_ways_name_the_split_and_the_remedy():
    with pytest.raises(ValueError, match=r"^n_way=50, but split 'train' of toys has 5 classes; lower batching\.n_way$"):
        TaskSampler(dataset([9] * 5), 50, 1, 1)


def test_a_class_with_too_few_images_is_named_with_its_count():
    with pytest.raises(ValueError, match=r"need 6 images per class.*'class 1' with 5; lower few.k_shot or few.n_query"):
        TaskSampler(dataset([9, 5, 9]), 2, 1, 5, "few.{}")


def test_too_many_ways_and_too_few_images_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        TaskSampler(dataset([9, 5, 9]), 4, 1, 5)
    ways, images = caught.value.problems
    assert ways.startswith("n_way=4") and images.startswith("k_shot=1 and n_query=5 need 6 images")


def test_a_class_without_images_is_refused():
    source = dataset([3, 3])
    with pytest.raises(ValueError, match="'empty' with 0"):
        TaskSampler(replace(source, class_names=(*source.class_names, "empty")), 2, 1, 1)


@pytest.mark.parametrize("name", ["n_way", "k_shot", "n_query"])
def test_a_number_below_one_is_refused(name):
    numbers = {"n_way": 2, "k_shot": 1, "n_query": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name}=0.*raise batching.{name}"):
        TaskSampler(dataset([3, 3]), **numbers)


def test_a_dataset_without_labels_is_refused():
    with pytest.raises(ValueError, match="toys/train has no labels"):
        TaskSampler(replace(dataset([3, 3]), labels=None), 2, 1, 1)


def test_a_table_of_the_wrong_width_is_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 3\); expected \(tasks, 6\)"):
        TaskSampler(dataset([3, 3]), 2, 1, 1)(np.zeros((4, 3), dtype=np.float32))


@pytest.fixture(scope="module")
def by_classes() -> Splits:
    return digits("classes", 0.0, 0.0, [5, 0, 5], split_seed=0, size=None, channels=None)


def episodes(splits: Splits, n_way, k_shot, tasks: int = 4, seed: int = 0, grow: int | None = None) -> EpisodeBatching:
    made = EpisodeBatching(Augmentation({}), n_way, k_shot, n_query=3, tasks_per_batch=tasks, ways_grow_every=grow)
    made.bind(splits.train, seed, torch.device("cpu"))
    return made


def test_ways_grow_one_by_one_to_the_most_while_shots_are_drawn_as_before(by_classes):
    growing, drawn = episodes(by_classes, [2, 5], [1, 3], grow=40), episodes(by_classes, [2, 5], [1, 3])
    shapes = [growing.shape(step) for step in range(400)]
    assert [ways for ways, _ in shapes] == [2] * 40 + [3] * 40 + [4] * 40 + [5] * 280
    assert [shots for _, shots in shapes] == [drawn.shape(step)[1] for step in range(400)]
    assert growing.batch(79).support_labels.max() == 2
    assert growing.batch(80).support_labels.max() == 3
    assert growing.images_per_step == 4 * 5 * (2 + 3)  # the most ways, and the mean of the shots


def test_one_number_of_ways_has_nowhere_to_grow(by_classes):
    assert {episodes(by_classes, 4, 1, grow=10).shape(step) for step in range(50)} == {(4, 1)}


def test_a_range_draws_ways_and_shots_uniformly_and_independently(by_classes):
    batching = episodes(by_classes, [2, 5], [1, 3])
    counts = np.zeros((4, 3))
    for step in range(3_000):
        ways, shots = batching.shape(step)
        counts[ways - 2, shots - 1] += 1
    assert chisquare(counts.flatten()).pvalue > 0.001


def test_all_tasks_of_a_batch_have_the_steps_ways_and_shots_but_their_own_images(by_classes):
    batching, source = episodes(by_classes, [2, 5], [1, 3]), by_classes.train
    place = {image.numpy().tobytes(): number for number, image in enumerate(source.images)}
    assert len(place) == len(source)
    for step in range(12):
        batch, (ways, shots) = batching.batch(step), batching.shape(step)
        assert batch.n_way == ways
        assert batch.support_images.shape[:2] == batch.support_labels.shape == (4, ways * shots)
        assert batch.query_images.shape[:2] == batch.query_labels.shape == (4, ways * 3)
        for task in range(4):
            images = [*batch.support_images[task], *batch.query_images[task]]
            labels = [*batch.support_labels[task].tolist(), *batch.query_labels[task].tolist()]
            places = [place[(image * 255).round().to(torch.uint8).numpy().tobytes()] for image in images]
            assert len(set(places)) == ways * (shots + 3)
            true = {(label, source.labels[number].item()) for label, number in zip(labels, places, strict=True)}
            assert {label for label, _ in true} == set(range(ways)) and len({each for _, each in true}) == len(true)


def test_a_range_of_one_number_is_that_number(by_classes):
    one, other = episodes(by_classes, 3, 2), episodes(by_classes, [3, 3], [2, 2])
    assert (one.n_outputs, one.images_per_step) == (other.n_outputs, other.images_per_step) == (3, 4 * 3 * 5)
    first, second = one.batch(5), other.batch(5)
    assert torch.equal(first.support_images, second.support_images)
    assert torch.equal(first.query_images, second.query_images)


def test_a_range_of_ways_has_no_number_of_outputs_and_one_of_shots_has(by_classes):
    assert episodes(by_classes, [2, 5], 1).n_outputs is None
    assert episodes(by_classes, 5, [1, 3]).n_outputs == 5


def test_images_per_step_is_the_mean_over_all_shapes(by_classes):
    batching = episodes(by_classes, [2, 5], [1, 3])
    sizes = [4 * ways * (shots + 3) for ways in range(2, 6) for shots in range(1, 4)]
    assert batching.images_per_step == np.mean(sizes) == 70


def test_the_largest_batch_has_the_most_ways_and_shots(by_classes):
    largest = episodes(by_classes, [2, 5], [1, 3]).largest()
    assert (largest.n_way, largest.support_labels.shape) == (5, (4, 15))
    assert torch.equal(largest.query_images, episodes(by_classes, 5, 3).batch(0).query_images)


def test_two_processes_draw_the_same_ways_shots_and_tasks_as_one(by_classes, monkeypatch):
    batching = episodes(by_classes, [2, 5], [1, 3], seed=7)
    whole = [batching.batch(step) for step in range(6)]
    assert len({batch.n_way for batch in whole}) > 1
    monkeypatch.setattr(process_group, "size", lambda: 2)
    for step, expected in enumerate(whole):
        halves = []
        for rank in range(2):
            monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
            halves.append(batching.batch(step))
        assert {half.n_way for half in halves} == {expected.n_way}
        for name in ("support_images", "support_labels", "query_images", "query_labels"):
            assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(expected, name)), name


@pytest.mark.parametrize(
    ("n_way", "k_shot", "message"),
    [
        ([5, 2], 1, r"n_way=\[5, 2\] is a reversed range; write \[2, 5\]"),
        ([0, 2], 1, r"n_way=\[0, 2\]; it must be at least 1"),
        (2, [1, 2, 3], r"k_shot=\[1, 2, 3\] has 3 numbers; give one, or a range as \[least, most\]"),
        (2, [], r"k_shot=\[\] has 0 numbers"),
        ([2, 6], 1, r"n_way=6, but split 'train' of digits has 5 classes; lower batching\.n_way"),
        (2, [1, 900], r"k_shot=900.*lower batching\.k_shot"),
    ],
)
def test_an_impossible_range_is_reported_with_its_remedy(by_classes, n_way, k_shot, message):
    with pytest.raises(ValueError, match=message):
        episodes(by_classes, n_way, k_shot)
