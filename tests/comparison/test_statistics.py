"""The statistics of reports, against formulas and counts by hand, and on figures whose truth is known."""

import itertools
import math
import statistics as standard

import numpy as np
import pytest
from scipy import stats

from ssl_runner.comparison import statistics


def one_paired(row, baseline):
    return statistics.paired([row], baseline)[0]


FIVE = [0.91, 0.93, 0.92, 0.95, 0.9]


def by_counting(differences):
    """The share of all flips of signs whose mean is as far from 0."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(one >= observed - 1e-12 for one in sums) / len(sums)


@pytest.mark.parametrize("pairs", [2, 3, 5, 8])
def test_the_paired_test_counts_all_flips_of_signs(pairs):
    generator = np.random.default_rng(pairs)
    first = dict(enumerate(generator.normal(0.81, 0.02, pairs)))
    second = dict(enumerate(generator.normal(0.8, 0.02, pairs)))
    test = one_paired(first, second)
    assert test is not None
    assert test.p == pytest.approx(by_counting([first[seed] - second[seed] for seed in range(pairs)]))


@pytest.mark.parametrize("pairs", [2, 3, 5, 8])
def test_the_least_p_is_reached_when_all_differences_have_one_sign(pairs):
    test = one_paired({n: 0.9 + n / 100 for n in range(pairs)}, dict.fromkeys(range(pairs), 0.8))
    assert test is not None
    assert test.p == pytest.approx(statistics.least_p(pairs)) == pytest.approx(2 / 2**pairs)


def test_only_common_seeds_are_paired():
    test = one_paired({0: 0.9, 1: 0.92, 7: 0.1}, {1: 0.9, 0: 0.89, 5: 0.3})
    assert test is not None
    assert test.pairs == 2
    assert test.mean == pytest.approx((0.01 + 0.02) / 2)
    assert one_paired({0: 1.0}, {1: 1.0}) is None


def test_rows_are_tested_together_as_each_by_itself():
    generator = np.random.default_rng(3)
    rows = [dict(enumerate(generator.normal(0.8, 0.02, n))) for n in (4, 6, 4, 1, 6)] + [{99: 0.5}]
    baseline = dict(enumerate(generator.normal(0.8, 0.02, 6)))
    assert statistics.paired(rows, baseline) == [one_paired(row, baseline) for row in rows]


def test_one_pair_has_a_difference_but_neither_interval_nor_test():
    assert one_paired({0: 0.75}, {0: 0.5}) == statistics.Paired(0.25, None, None, 1, None)


def test_equal_figures_differ_in_nothing():
    test = one_paired({0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.5, 1: 0.6, 2: 0.7})
    assert test is not None
    assert (test.mean, test.p) == (0, 1)


def test_many_pairs_are_tested_by_random_flips():
    generator = np.random.default_rng(0)
    differences = generator.normal(0.01, 0.02, 20)
    test = one_paired(dict(enumerate(differences)), dict.fromkeys(range(20), 0.0))
    assert test is not None and test.p is not None
    # the normal approximation of the same test
    expected = 2 * stats.norm.sf(abs(differences.sum()) / math.sqrt((differences**2).sum()))
    assert test.p == pytest.approx(expected, abs=0.01)


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1, 1]
    assert statistics.holm([0.01, 0.02], family=6) == pytest.approx([0.06, 0.1])
    assert statistics.holm([]) == []


def test_pairs_needed_is_the_first_number_that_is_enough():
    for comparisons in (1, 2, 3, 10):
        needed = statistics.pairs_needed(comparisons)
        assert comparisons * statistics.least_p(needed) < 0.05 <= comparisons * statistics.least_p(needed - 1)


def within(rate, repetitions):
    """5% and two standard errors of a share of so many repetitions."""
    return rate <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / repetitions)


def test_corrected_paired_tests_err_in_at_most_5_per_cent_of_families():
    generator, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        figures = generator.normal(0.8, 0.02, size=(4, 9))  # all settings are equal
        baseline = dict(enumerate(figures[0]))
        tests = [one_paired(dict(enumerate(row)), baseline) for row in figures[1:]]
        wrong += min(statistics.holm([test.p for test in tests if test is not None and test.p is not None])) < 0.05
    assert within(wrong / 400, 400)
    assert wrong > 0  # the test is exact, so it must err now and then


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("matched", [True, False])
def test_equal_settings_are_told_apart_in_at_most_5_per_cent_of_columns(seeds, matched):
    generator, wrong = np.random.default_rng(seeds), 0
    for _ in range(1000):
        figures = generator.normal(0.8, 0.02, size=(4, seeds))
        rows = [
            {seed + (0 if matched else 100 * n): value for seed, value in enumerate(row)}
            for n, row in enumerate(figures)
        ]
        wrong += any(statistics.unlike_best(rows, True)[1])
    assert within(wrong / 1000, 1000)


def test_a_setting_that_is_much_worse_is_told_apart():
    generator = np.random.default_rng(0)
    figures = [generator.normal(mean, 0.01, 5) for mean in (0.8, 0.9, 0.9)]
    best, apart, used = statistics.unlike_best([dict(enumerate(row)) for row in figures], True)
    assert best in (1, 2)
    assert apart == [True, False, False]
    assert used == ["paired t-tests"]
    assert statistics.unlike_best([dict(enumerate(row)) for row in figures], False)[0] == 0


def test_telling_apart_is_pairwise_t_tests_corrected_for_all_pairs():
    rows = [{0: 0.9, 1: 0.93, 2: 0.92}, {0: 0.8, 1: 0.84, 2: 0.82}, {5: 0.7, 6: 0.72}]
    best, apart, used = statistics.unlike_best(rows, True)
    paired = stats.ttest_rel(list(rows[0].values()), list(rows[1].values())).pvalue
    welch = stats.ttest_ind(list(rows[0].values()), list(rows[2].values()), equal_var=False).pvalue
    corrected = statistics.holm([paired, welch], family=3)
    assert best == 0
    assert apart == [False, *(p <= 0.05 for p in corrected)]
    assert used == ["paired t-tests", "Welch's t-tests"]


def test_a_single_seed_is_never_told_apart():
    assert statistics.unlike_best([{0: 0.9, 1: 0.91}, {0: 0.1}], True)[:2] == (0, [False, False])
    assert statistics.unlike_best([{0: 0.99}, {0: 0.1, 1: 0.1001}], True)[:2] == (0, [False, False])


def test_settings_without_any_variance():
    assert statistics.unlike_best([{0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5}], True)[1] == [False, False]
    assert statistics.unlike_best([{0: 0.5, 1: 0.5}, {0: 0.75, 1: 0.75}], True)[1] == [True, False]


def middle_half(values):
    """The mean of the figures that are left when a quarter is cut off at either end."""
    cut = int(0.25 * len(values))
    return standard.fmean(sorted(values)[cut : len(values) - cut])


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert statistics.interquartile_mean([9.0, 1.0, 2.0, 3.0, -50.0, 4.0, 5.0, 700.0]) == pytest.approx(14 / 4)
    values = list(np.random.default_rng(0).normal(size=30))
    assert statistics.interquartile_mean(values) == pytest.approx(middle_half(values))


def test_the_bootstrap_resamples_runs_within_each_task():
    generator = np.random.default_rng(1)
    tasks = [list(generator.normal(mean, 0.03, 5)) for mean in (0.3, 0.6, 0.9)]
    middle, low, high = statistics.stratified_bootstrap(tasks)
    assert middle == pytest.approx(middle_half([one for task in tasks for one in task]))
    resampled = [middle_half([one for task in tasks for one in generator.choice(task, len(task))]) for _ in range(4000)]
    assert (low, high) == pytest.approx(tuple(np.percentile(resampled, (2.5, 97.5))), abs=0.002)
    # with runs drawn over all tasks, the spread between tasks would count
    pooled = [middle_half(list(generator.choice(np.concatenate(tasks), 15))) for _ in range(1000)]
    assert high - low < 0.5 * np.subtract(*np.percentile(pooled, (97.5, 2.5)))


def test_the_bootstrap_needs_two_runs_of_each_task():
    assert statistics.stratified_bootstrap([[0.25, 0.75], [0.5]]) == (0.5, None, None)
