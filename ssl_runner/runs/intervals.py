"""The mean over seeds and its interval.

Seeds are a sample of what training gives; an interval over them says how far the mean of other seeds may lie. It is
another thing than an evaluator's interval over episodes, which knows one trained encoder only.
"""

import functools
import math
from collections.abc import Sequence

LEVEL = 0.95


@functools.cache
def _quantile(n: int) -> float:
    from scipy import stats  # slow to import

    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1))


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and the ends of its 95% interval by Student's t; without ends for a single value."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return mean, None, None
    half = _quantile(n) * math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return mean, mean - half, mean + half
