"""Images a second and start-up of packed images at 224 pixels, beside torchvision's and lightly's loaders.

50,000 JPEGs of about 500 x 400 pixels are generated once below `packed_benchmark/` (or SSL_RUNNER_BENCHMARK). Every
loader makes two float views in [0, 1] of 224 pixels with SimCLR's augmentation at full strength: random resized crop,
flip, jitter (0.8, 0.8, 0.8, 0.2) with probability 0.8, gray 0.2, blur of 23 pixels 0.5. Peers: ImageFolder, a
DataLoader with one worker per core and transforms v2 on PIL images, as its tutorials have it; LightlyDataset with
SimCLRTransform(224, 1.0). Growth is that of a generated index.
"""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .jpegs import generate
from .measure import apart, exponent, in_turn, median_ratio, resident
from .peers import name, parts
from .row import Goal, Row, Settings

BATCH, WARM = 64, 2
LEAST = {"torchvision": 1.5, "lightly": 2.5}  # times as fast
FOLDER = Path(os.environ.get("SSL_RUNNER_BENCHMARK", "packed_benchmark"))


@contextlib.contextmanager
def images(settings: Settings) -> Iterator[tuple[str, float, int]]:
    """The folder of images, which share of them is for tests, and the batch."""
    count, test, batch = (24, 0.4, 4) if settings.quick else (50_000, 0.01, BATCH)
    with tempfile.TemporaryDirectory() as made:
        folder = made if settings.quick else str(FOLDER.resolve() / str(count))
        generate(Path(folder), count)
        yield folder, test, batch


def ours(folder: str, test: float, batch: int, counted: int, epochs: int) -> dict[str, float]:
    """Seconds to the first batch's plan, and images a second or, over whole epochs, memory after each."""
    began = time.perf_counter()
    import torch

    from ssl_runner.data.batching.view_batching import ViewBatching
    from ssl_runner.data.sources.image_folder import image_folder
    from ssl_runner.runtime import allocator

    allocator.keep_pages()  # as every run does
    imported = time.perf_counter()
    given = {"split": "images", "class_split": None, "class_counts": None, "validation": 0, "test": test}
    splits = image_folder(folder, **given, split_seed=0, size=224, channels=3, storage="packed")
    batching = ViewBatching(augmentation(), batch, 2)
    batching.bind(splits.train, 0, torch.device("cpu"))
    found = {"start_seconds": time.perf_counter() - imported, "import_seconds": imported - began}
    if epochs:
        assert batching.steps_per_epoch is not None
        for epoch in range(epochs):
            for step in range(epoch * batching.steps_per_epoch, (epoch + 1) * batching.steps_per_epoch):
                batching.batch(step)
            found[f"mb_after_epoch_{epoch + 1}"] = resident()
        return found
    for step in range(WARM):
        batching.batch(step)
    began = time.perf_counter()
    for step in range(WARM, WARM + counted):
        batching.batch(step)
    return found | {"rate": counted * batch / (time.perf_counter() - began)}


def augmentation():
    """SimCLR's, at full strength."""
    from ssl_runner.data import augmentation as ours

    return ours.Augmentation(
        {
            "crop": ours.RandomResizedCrop(None, [0.08, 1.0], [0.75, 1.3333]),
            "flip": ours.HorizontalFlip(0.5),
            "jitter": ours.ColorJitter(0.8, 0.8, 0.8, 0.2, 0.8),
            "gray": ours.RandomGrayscale(0.2),
            "blur": ours.GaussianBlur(23, [0.1, 2.0], 0.5),
        }
    )


def by_torchvision(folder: str, batch: int, counted: int) -> dict[str, float]:
    """Images a second of ImageFolder, transforms v2 and a DataLoader."""
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    jitter = v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8)
    blur = v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 0.5)
    crop = [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2), blur]
    view = v2.Compose([*crop, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    return timed(ImageFolder(folder, lambda image: (view(image), view(image))), batch, counted)


def by_lightly(folder: str, batch: int, counted: int) -> dict[str, float]:
    """Images a second of LightlyDataset and SimCLRTransform."""
    from lightly.data import LightlyDataset  # pyright: ignore[reportMissingImports]
    from lightly.transforms import SimCLRTransform  # pyright: ignore[reportMissingImports]

    return timed(LightlyDataset(folder, transform=SimCLRTransform(224, cj_strength=1.0)), batch, counted)


def timed(dataset: Any, batch: int, counted: int) -> dict[str, float]:
    """Images a second of a DataLoader."""
    from torch.utils.data import DataLoader

    workers = len(os.sched_getaffinity(0))
    batches = iter(DataLoader(dataset, batch, shuffle=True, num_workers=workers, drop_last=True))
    for _ in range(WARM + workers):  # as many as are decoded ahead
        next(batches)
    began = time.perf_counter()
    for _ in range(counted):
        next(batches)
    return {"rate": counted * batch / (time.perf_counter() - began)}


def index(files: int) -> dict[str, float]:
    """Seconds and memory to open a generated index of this many images, and to plan a batch of them."""
    import numpy as np

    from ssl_runner.data.stores.index import RECORD, Appending, read_index

    with tempfile.TemporaryDirectory() as folder:
        writer = Appending(Path(folder), {"root": "", "data": [0], "damaged": {}})
        for number in range(files):
            record = np.zeros((), RECORD)
            record["height"], record["width"] = 400, 500
            writer.add(record, b"train/n%05d/%09d.JPEG" % (number % 1000, number))
        writer.commit()
        del writer
        before, began = resident(), time.perf_counter()
        opened = read_index(Path(folder))
        assert opened is not None
        rows = {text: row for row, text in enumerate(opened.texts())}
        return {"files": len(rows), "seconds": time.perf_counter() - began, "mb": resident() - before}


def rows(settings: Settings) -> Iterator[Row]:
    """Rates beside the peers', start-up, and growth with the files."""
    with images(settings) as (folder, test, batch):
        first = apart(settings, ours, folder, test, batch, 1, 0)
        yield Row("packed, first start", first["start_seconds"], "s")
        yield from compared(settings, folder, test, batch, 1 if settings.quick else 40)
    sizes = [100, 200] if settings.quick else [10**3, 10**4, 10**5, 10**6]
    costs = [apart(settings, index, size) for size in sizes]
    yield Row(f"index of {sizes[-1]:,} files opened", costs[-1]["seconds"], "s", goal=Goal(most=5))
    yield Row(f"index of {sizes[-1]:,} files: memory", costs[-1]["mb"], "MB")
    slope = exponent(sizes, [cost["seconds"] for cost in costs])
    yield Row(f"growth of opening, {sizes[0]:,} to {sizes[-1]:,} files", slope, "", goal=Goal(most=1.1))


def compared(settings: Settings, folder: str, test: float, batch: int, counted: int) -> Iterator[Row]:
    """Two views of so many images a second beside torchvision's, which is installed with ours, and lightly's."""
    mine = {"ours": lambda: apart(settings, ours, folder, test, batch, counted, 0)}
    others = parts(settings, {"lightly": by_lightly}, folder, batch, counted)
    if not settings.quick:  # its workers are forked: not from a process of tests
        others["torchvision"] = lambda: apart(settings, by_torchvision, folder, batch, counted)
    found = in_turn(mine | others, settings.rounds)
    rates = {part: [result["rate"] for result in results] for part, results in found.items()}
    own = statistics.median(rates["ours"])
    for peer in others:
        beside, other = name(peer), statistics.median(rates[peer])
        ratio = median_ratio(rates["ours"], rates[peer])
        yield Row("images, two views each / the peer's", own, "/s", beside, other, ratio, Goal(least=LEAST[peer]))
    start = statistics.median(result["start_seconds"] for result in found["ours"])
    yield Row("second start beyond imports", start, "s", goal=Goal(most=2))
