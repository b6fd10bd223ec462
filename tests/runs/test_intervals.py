"""Intervals over seeds, against a formula with a value from a table, and on figures whose truth is known."""

import math
import statistics as standard

import numpy as np
import pytest

from ssl_runner.runs.intervals import mean_interval

FIVE = [0.91, 0.93, 0.92, 0.95, 0.9]


def test_the_interval_is_that_of_students_t():
    mean, low, high = mean_interval(FIVE)
    half = 2.7764451051977987 * standard.stdev(FIVE) / math.sqrt(5)  # t with 4 degrees of freedom, from a table
    assert (mean, low, high) == pytest.approx((0.922, 0.922 - half, 0.922 + half), rel=1e-12)


def test_one_value_has_no_interval():
    assert mean_interval([0.5]) == (0.5, None, None)


def test_equal_values_have_an_interval_of_no_width():
    mean, low, high = mean_interval([0.5, 0.5, 0.5])
    assert mean == low == high == 0.5


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_the_truth_in_about_95_per_cent(seeds):
    draws = np.random.default_rng(seeds).normal(0.8, 0.02, size=(1000, seeds))
    intervals = [mean_interval(list(row)) for row in draws]
    covered = sum(low <= 0.8 <= high for _, low, high in intervals)
    assert 930 <= covered <= 970


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_of_paired_differences_cover_the_truth_in_about_95_per_cent(seeds):
    generator = np.random.default_rng(100 + seeds)
    covered = 0
    for _ in range(1000):
        common = generator.normal(0, 0.05, seeds)  # what a seed does to both
        first = dict(enumerate(0.83 + common + generator.normal(0, 0.01, seeds)))
        second = dict(enumerate(0.80 + common + generator.normal(0, 0.01, seeds)))
        differences = [first[seed] - second[seed] for seed in range(seeds)]
        _, low, high = mean_interval(differences)
        covered += low <= 0.03 <= high
    assert 930 <= covered <= 970
