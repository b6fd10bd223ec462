"""Pairs of views a second of SimCLR on CIFAR-10, without learning, beside lightly's with two workers.

Images are in memory and none is decoded; batches of 256 of crop, flip, jitter and gray at 32 pixels, ready for the
encoder. lightly makes `SimCLRTransform(input_size=32, gaussian_blur=0)` of `Image.fromarray` in a DataLoader's
workers.
"""

import statistics
import time
from collections.abc import Iterator

from .measure import apart, exponent, in_turn, median_ratio, repeated, wired
from .peers import name, parts
from .row import Goal, Row, Settings

BATCH, WARM = 256, 3


def ours(dataset: str, batch: int, counted: int) -> float:
    """Pairs a second of `batching`."""
    batching = wired([*experiment(dataset), f"batching.batch_size={batch}"]).batching
    for step in range(WARM):
        batching.batch(step)
    began = time.perf_counter()
    for step in range(WARM, WARM + counted):
        batching.batch(step)
    return counted * batch / (time.perf_counter() - began)


def growth(dataset: str, batches: list[int]) -> list[float]:
    """Seconds of a batch by its size."""
    seconds = []
    for size in batches:
        batching = wired([*experiment(dataset), f"batching.batch_size={size}"]).batching
        seconds.append(repeated(lambda batching=batching: batching.batch(0), 5))
    return seconds


def experiment(dataset: str) -> list[str]:
    """SimCLR on 32 x 32 images, in memory."""
    return ["experiment=simclr_cifar10" if dataset == "cifar10" else f"experiment=simclr_{dataset}", "eval=[]"]


def by_lightly(counted: int) -> float:
    """Pairs a second of a DataLoader over made-up images: what is in them costs nothing more or less."""
    from .simclr import lightly_loader

    loader = iter(lightly_loader(BATCH))
    for _ in range(WARM + 4):  # as many as the workers have made ahead
        next(loader)
    began = time.perf_counter()
    for _ in range(counted):
        next(loader)
    return counted * BATCH / (time.perf_counter() - began)


def rows(settings: Settings) -> Iterator[Row]:
    """The rate beside lightly's, and growth with the batch."""
    dataset, counted = ("digits", 2) if settings.quick else ("cifar10", 60)
    others = parts(settings, {"lightly": by_lightly}, 2 if settings.quick else 20)
    found = in_turn({"ours": lambda: apart(settings, ours, dataset, BATCH, counted), **others}, settings.rounds)
    own = statistics.median(found["ours"])
    if not others:
        yield Row("pairs of views", own, "/s")
    for peer in others:
        ratio, other = median_ratio(found["ours"], found[peer]), statistics.median(found[peer])
        yield Row("pairs of views / the peer's", own, "/s", f"{name(peer)}, 2 workers", other, ratio, Goal(least=10))
    sizes = [64, 128] if settings.quick else [64, 256, 1024, 4096, 16384]
    slope = exponent(sizes, apart(settings, growth, dataset, sizes))
    yield Row(f"growth of time with the batch, {sizes[0]:,} to {sizes[-1]:,}", slope, "", goal=Goal(most=1.1))
