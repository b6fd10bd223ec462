"""Episodes as places: distinct, disjoint, of the right classes, and uniform."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from ssl_runner import randomness
from ssl_runner.config import ConfigError
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.tasks import TaskSampler, _sample


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
def test_a_sample_equals_that_of_a_whole_fisher_yates_shuffle(k, extra, seed):
    n = k + extra
    numbers = np.random.default_rng(seed).random(k, dtype=np.float32)
    places = list(range(n))
    for step in range(k):
        other = step + int(float(numbers[step]) * (n - step))
        places[step], places[other] = places[other], places[step]
    assert _sample(numbers[None], np.array(n))[0].tolist() == places[:k]


def test_every_ordered_sample_is_equally_likely():
    drawn = _sample(randomness.uniforms(0, "sample", 0, 60_000, 3), np.array(5))
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


def test_labels_are_permuted_anew_so_that_a_memoriser_scores_chance():
    source = dataset([6] * 5)
    tasks = draw(TaskSampler(source, 5, 1, 3), 8_000)
    # The best that the true class alone can tell about the label.
    table = torch.zeros(5, 5)
    table.index_put_(
        (source.labels[tasks.query].flatten(), tasks.query_labels.flatten()), torch.ones(1), accumulate=True
    )
    best = table.amax(dim=1).sum() / table.sum()
    assert best.item() == pytest.approx(0.2, abs=0.01)


def test_a_task_depends_on_its_row_alone():
    sampler = TaskSampler(dataset([9] * 7), 3, 2, 4)
    table = randomness.uniforms(3, "tasks", 0, 20, sampler.columns)
    whole, part = sampler(table), sampler(table[5:9])
    assert torch.equal(whole[5:9].support, part.support)
    assert torch.equal(whole[5:9].query, part.query)


@pytest.mark.parametrize("extreme", [0.0, np.nextafter(np.float32(1), np.float32(0)), 1.0])
@pytest.mark.parametrize("n", [16, 20_000_003])
def test_the_extreme_numbers_stay_within_the_population(extreme, n):
    drawn = _sample(np.full((1, 16), extreme, dtype=np.float32), np.array(n))[0]
    assert 0 <= drawn.min() <= drawn.max() < n
    assert len(set(drawn.tolist())) == 16


def test_too_many_ways_name_the_split_and_the_remedy():
    with pytest.raises(ValueError, match=r"^n_way=50, but split 'train' of toys has 5 classes; lower batching\.n_way$"):
        TaskSampler(dataset([9] * 5), 50, 1, 1)


def test_a_class_with_too_few_images_is_named_with_its_count():
    with pytest.raises(ValueError, match=r"need 6 images a class.*'class 1' with 5; lower few.k_shot or few.n_query"):
        TaskSampler(dataset([9, 5, 9]), 2, 1, 5, "few.{}")


def test_too_many_ways_and_too_few_images_are_told_together():
    with pytest.raises(ConfigError) as told:
        TaskSampler(dataset([9, 5, 9]), 4, 1, 5)
    ways, images = told.value.problems
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
