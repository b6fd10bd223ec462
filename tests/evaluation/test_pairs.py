"""Paired comparisons against enumeration, closed forms and definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from ssl_runner.comparison.statistics import holm
from ssl_runner.evaluation.paired import interval
from ssl_runner.evaluation.pairs import compare, mcnemar, paired_t


def by_enumeration(only_first: int, only_second: int) -> float:
    """The share of all outcomes of the discordant images that are at least as lopsided."""
    n, seen = only_first + only_second, abs(only_first - only_second)
    outcomes = list(itertools.product((1, -1), repeat=n))
    return sum(abs(sum(outcome)) >= seen for outcome in outcomes) / len(outcomes)


@pytest.mark.parametrize(("only_first", "only_second"), [*itertools.combinations_with_replacement(range(7), 2)])
def test_mcnemar_is_the_share_of_outcomes_that_are_as_lopsided(only_first, only_second):
    both, neither = 5, 3
    first = np.array([True] * (only_first + both) + [False] * (only_second + neither))
    second = np.array([False] * only_first + [True] * (both + only_second) + [False] * neither)
    p, discordant = mcnemar(first, second)
    assert p == pytest.approx(by_enumeration(only_first, only_second))
    assert discordant == only_first + only_second


def test_mcnemar_has_its_level_when_encoders_are_equally_good():
    generator = np.random.default_rng(0)
    answers = generator.random((400, 2, 60)) < 0.8
    assert np.mean([mcnemar(first, second)[0] < 0.05 for first, second in answers]) <= 0.05


def test_the_t_test_is_students_of_the_differences():
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 40))
    values = first - second
    t = values.mean() / (values.std(ddof=1) / math.sqrt(40))
    assert paired_t(first, second) == pytest.approx(2 * stats.t.sf(abs(t), 39))
    assert paired_t(first, first) == 1
    assert paired_t(first * 0 + 0.5, first * 0) == 0


def test_holm_rejects_what_its_definition_rejects():
    generator = np.random.default_rng(0)
    for _ in range(200):
        values = generator.random(generator.integers(1, 8)) ** 4
        rejected, order = set(), np.argsort(values)
        for place, number in enumerate(order):
            if values[number] >= 0.05 / (len(values) - place):
                break
            rejected.add(int(number))
        assert {number for number, p in enumerate(holm(values.tolist())) if p < 0.05} == rejected
    assert holm([]) == []
    assert holm([0.04]) == [0.04]


def test_every_pair_is_compared_in_every_score_that_both_have():
    generator = np.random.default_rng(0)
    right = generator.random((3, 500)) < np.array([[0.9], [0.9], [0.5]])
    right[1] = np.roll(right[0], 1)  # as many, and others
    episodes = generator.random((2, 50))
    one, other = ({"knn": right[number], "few_shot/5w1s": episodes[number]} for number in (0, 1))
    found = compare([one, other, {"knn": right[2]}])
    assert [(one.key, one.first, one.second) for one in found] == [
        ("knn", 0, 1),
        ("knn", 0, 2),
        ("knn", 1, 2),
        ("few_shot/5w1s", 0, 1),
    ]
    assert [one.test for one in found] == ["McNemar"] * 3 + ["paired t"]
    assert [one.told_apart for one in found[:3]] == [False, True, True]
    assert found[1].mean == pytest.approx(right[0].mean() - right[2].mean())
    assert [one.p_holm for one in found[:3]] == holm([one.p for one in found[:3]])
    assert found[3].p_holm == found[3].p
    assert found[3].ci95 == pytest.approx(interval(torch.from_numpy(episodes[0] - episodes[1])))
    assert found[3].n == 50


def test_a_test_that_can_show_nothing_says_so():
    first = np.array([True] * 20)
    second = first.copy()
    second[:3] = False
    (found,) = compare([{"knn": first}, {"knn": second}])
    assert not found.told_apart
    assert found.note == "only 3 answers differ: p cannot be below 0.25"


def test_answers_of_other_images_are_refused():
    with pytest.raises(ValueError, match="3 and 4 answers cannot be paired"):
        compare([{"knn": np.ones(3, bool)}, {"knn": np.ones(4, bool)}])
