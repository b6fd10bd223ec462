"""kNN of 60,000 x 10,000 features of 128 numbers, beside faiss and scikit-learn.

All search exactly by cosine and vote alike (exp(s / 0.1), 200 neighbours, 10 classes) on the same made-up features;
the time is that of everything from features to answers. An answer may differ where similarities tie in float32.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Any

from .measure import apart, exponent, grown, in_turn, median_ratio, repeated
from .peers import name, parts
from .row import Goal, Row, Settings

WIDTH, CLASSES, K, TEMPERATURE = 128, 10, 200, 0.1


def features(gallery: int, queries: int) -> Any:
    """Overlapping clouds: gallery (N, D), its labels (N,), queries (M, D), as arrays."""
    import numpy as np

    generator = np.random.default_rng(0)
    labels = generator.integers(CLASSES, size=gallery + queries)
    centers = generator.standard_normal((CLASSES, WIDTH))
    rows = centers[labels] + 3 * generator.standard_normal((gallery + queries, WIDTH))
    rows = rows.astype(np.float32)
    return rows[:gallery], labels[:gallery], rows[gallery:]


def ours(gallery: int, queries: int) -> dict[str, Any]:
    """Seconds and answers of `eval.knn`."""
    call, small = predicting(gallery, queries), predicting(K, 10)
    small()
    began = time.perf_counter()
    answers = call()
    return {"seconds": time.perf_counter() - began, "answers": answers.tolist()}


def memory(gallery: int, queries: int) -> float:
    """MB beside the features."""
    call, small = predicting(gallery, queries), predicting(K, 10)
    small()
    return grown(call)


def growth(galleries: list[int], queries: int) -> list[float]:
    """Seconds by the size of the gallery."""
    return [repeated(predicting(gallery, queries), 3) for gallery in galleries]


def predicting(gallery: int, queries: int) -> Any:
    """Our prediction, to be called."""
    import torch

    from ssl_runner.evaluation.knn import KNN

    rows, labels, asked = map(torch.from_numpy, features(gallery, queries))
    return lambda: KNN(K, TEMPERATURE).predict(rows, labels, asked, CLASSES)


def by_faiss(gallery: int, queries: int) -> dict[str, Any]:
    """Seconds and answers of IndexFlatIP with a vote in NumPy."""
    import faiss  # pyright: ignore[reportMissingImports]

    def search(rows: Any, asked: Any) -> Any:
        index = faiss.IndexFlatIP(WIDTH)
        index.add(rows)
        return index.search(asked, K)

    return by_peer(search, gallery, queries)


def by_scikit_learn(gallery: int, queries: int) -> dict[str, Any]:
    """Seconds and answers of NearestNeighbors by brute force, with the same vote."""
    from sklearn.neighbors import NearestNeighbors

    def search(rows: Any, asked: Any) -> Any:
        # of unit vectors, squared distance is 2 - 2 s
        found = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(rows)
        distances, indices = found.kneighbors(asked)
        return 1 - distances**2 / 2, indices

    return by_peer(search, gallery, queries)


def by_peer(search: Any, gallery: int, queries: int) -> dict[str, Any]:
    """Seconds and answers of a search among normalised rows, and the vote."""
    import numpy as np

    rows, labels, asked = features(gallery, queries)
    search(rows[:K], asked[:10])
    began = time.perf_counter()
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (rows, asked)]
    similarity, indices = search(*unit)
    weights, votes = np.exp(similarity / TEMPERATURE), np.zeros((queries, CLASSES))
    np.add.at(votes, (np.arange(queries)[:, None], labels[indices]), weights)
    answers = votes.argmax(axis=1)
    return {"seconds": time.perf_counter() - began, "answers": answers.tolist()}


def rows(settings: Settings) -> Iterator[Row]:
    """Time and answers beside the peers, memory, and growth with the gallery."""
    size = (300, 50) if settings.quick else (60_000, 10_000)
    others = parts(settings, {"faiss": by_faiss, "scikit-learn": by_scikit_learn}, *size)
    found = in_turn({"ours": lambda: apart(settings, ours, *size), **others}, settings.rounds)
    seconds = {part: [result["seconds"] for result in results] for part, results in found.items()}
    own = statistics.median(seconds["ours"])
    if not others:
        yield Row("time", own, "s")
    for peer in others:
        ratio = median_ratio(seconds["ours"], seconds[peer])
        goal = Goal(most=1.5 if peer == "faiss" else 1)
        yield Row("time / the peer's", own, "s", name(peer), statistics.median(seconds[peer]), ratio, goal)
        pairs = zip(found["ours"][0]["answers"], found[peer][0]["answers"], strict=True)
        yield Row("answers that differ", sum(a != b for a, b in pairs), "", name(peer), goal=Goal(most=0))
    megabytes = apart(settings, memory, *size)
    yield Row(
        "memory beside the features", megabytes, "MB", "all similarities", size[0] * size[1] * 4e-6, goal=Goal(most=256)
    )
    galleries = [250, 500] if settings.quick else [10**3, 10**4, 10**5, 10**6]
    slope = exponent(galleries, apart(settings, growth, galleries, 200))
    yield Row(f"growth with the gallery, {galleries[0]:,} to {galleries[-1]:,}", slope, "", goal=Goal(most=1.05))
