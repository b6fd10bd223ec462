"""A linear probe of 60,000 features of 512 numbers, beside scikit-learn's LogisticRegression.

Both fit the five strengths of `eval=linear_probe`, from strong to weak, each from the last solution, on the same
standardised float32 features of 10 classes, which are not separable. Objectives are computed in float64. The solvers
stop by tolerances of their own; an objective counts as equal up to 1e-7, which is the rounding of float32.
"""

import statistics
import time
import warnings
from collections.abc import Iterator
from typing import Any

from .measure import apart, exponent, in_turn, median_ratio
from .peers import name, parts
from .row import Goal, Row, Settings

WIDTH, CLASSES = 512, 10
STRENGTHS = [0.1, 0.01, 0.001, 0.0001, 0.00001]
EQUAL = 1e-7


def features(n: int) -> Any:
    """Standardised correlated features (N, D), as a ReLU makes them, and labels (N,)."""
    import numpy as np

    generator, latent = np.random.default_rng(0), 64
    labels = generator.integers(CLASSES, size=n)
    places = 0.1 * generator.standard_normal((CLASSES, latent))[labels]
    places += generator.standard_normal((n, latent)) * np.linspace(1, 0.1, latent)
    mixed = places @ generator.standard_normal((latent, WIDTH)) / latent**0.5
    rows = np.maximum(mixed + 0.1 * generator.standard_normal((n, WIDTH)), 0)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return rows.astype(np.float32), labels


def objective(rows: Any, labels: Any, weights: Any, strength: float) -> float:
    """Mean cross-entropy + r / 2 ||W||^2 in float64, of weights (D + 1, K), bias last."""
    import numpy as np

    total = 0.0
    for begin in range(0, len(rows), 10_000):
        part, own = rows[begin : begin + 10_000].astype(np.float64), labels[begin : begin + 10_000]
        logits = part @ weights[:-1] + weights[-1]
        logits -= logits.max(axis=1, keepdims=True)
        total += (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(own)), own]).sum()
    return float(total / len(rows) + strength / 2 * np.square(weights[:-1]).sum())


def ours(n: int) -> dict[str, Any]:
    """Seconds of all fits, and the objective of each."""
    import torch

    from ssl_runner.evaluation.logistic_regression import Regression

    rows, labels = features(n)
    given = torch.from_numpy(rows), torch.from_numpy(labels)
    Regression(given[0][:99], given[1][:99], CLASSES, 5)  # libraries loaded, threads started
    found: list[Any] = []
    weights = None
    began = time.perf_counter()
    regression = Regression(*given, CLASSES, 500)
    for strength in STRENGTHS:
        weights = regression.fit(strength, weights)
        found.append(weights)
    seconds = time.perf_counter() - began
    objectives = [objective(rows, labels, w.double().numpy(), r) for w, r in zip(found, STRENGTHS, strict=True)]
    return {"seconds": seconds, "objectives": objectives}


def by_scikit_learn(n: int) -> dict[str, Any]:
    """The same by LogisticRegression as it is, with a warm start."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rows, labels = features(n)
    warnings.simplefilter("ignore")
    LogisticRegression(max_iter=2).fit(rows[:99], labels[:99])
    found, model = [], LogisticRegression(max_iter=500, warm_start=True)
    began = time.perf_counter()
    for strength in STRENGTHS:
        model.set_params(C=1 / (strength * n)).fit(rows, labels)
        found.append(np.concatenate([model.coef_.T, np.atleast_2d(model.intercept_)]).astype(np.float64))
    seconds = time.perf_counter() - began
    objectives = [objective(rows, labels, w, r) for w, r in zip(found, STRENGTHS, strict=True)]
    return {"seconds": seconds, "objectives": objectives}


def rows(settings: Settings) -> Iterator[Row]:
    """Time and objectives beside scikit-learn's, and growth with the rows."""
    n = 100 if settings.quick else 60_000
    others = parts(settings, {"scikit-learn": by_scikit_learn}, n)
    found = in_turn({"ours": lambda: apart(settings, ours, n), **others}, settings.rounds)
    seconds = {part: [result["seconds"] for result in results] for part, results in found.items()}
    own = statistics.median(seconds["ours"])
    if not others:
        yield Row("time of five fits", own, "s")
    for peer in others:
        ratio, other = median_ratio(seconds[peer], seconds["ours"]), statistics.median(seconds[peer])
        yield Row("the peer's time / time of five fits", own, "s", name(peer), other, ratio, Goal(least=3))
        pairs = zip(found["ours"][0]["objectives"], found[peer][0]["objectives"], strict=True)
        for strength, (mine, its) in zip(STRENGTHS, pairs, strict=True):
            excess, goal = mine - its, Goal(most=EQUAL)
            yield Row(f"excess of the objective at r = {strength:g}", excess, "", f"{name(peer)}: {its:.7f}", goal=goal)
    sizes = [100, 200] if settings.quick else [2_000, 6_000, 20_000, 60_000]
    costs = [apart(settings, ours, size)["seconds"] for size in sizes]
    yield Row(f"growth with rows, {sizes[0]:,} to {sizes[-1]:,}", exponent(sizes, costs), "", goal=Goal(most=1.1))
