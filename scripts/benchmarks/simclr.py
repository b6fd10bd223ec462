"""Pairs of views a second of a SimCLR step, beside its bare forward and backward pass and lightly's training.

CIFAR-10, conv4-64 with projector, batch 256. *Bare* is forward and backward pass of the same network on the same
batches, in the same memory format. lightly: arrays in memory, `Image.fromarray` and `SimCLRTransform(input_size=32,
gaussian_blur=0.0)` per item, a DataLoader of two workers, `SimCLRProjectionHead(256, 256, 128)`, `NTXentLoss(0.5)`,
SGD; 14 batches after 3. It keeps no freed pages, and does not decode either.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Any

from .measure import apart, in_turn, median_ratio, wired
from .peers import name, parts
from .row import Goal, Row, Settings

WARM, COUNTED, BATCH = 3, 14, 256


def ours(experiment: str, batch_size: int, counted: int) -> dict[str, float]:
    """Pairs a second of the whole step, and of forward and backward pass alone; the share of making views."""
    import torch

    from ssl_runner.runtime import allocator
    from ssl_runner.runtime.step_context import StepContext

    allocator.keep_pages()  # as in a run
    run = wired([f"experiment={experiment}", "model/encoder=conv4", f"batching.batch_size={batch_size}", "eval=[]"])
    algorithm = run.algorithm.train()
    seconds: dict[str, list[float]] = {"step": [], "data": [], "bare": []}
    for step in range(WARM + counted):
        context = StepContext(step, 1000, 0, run.device)
        began = time.perf_counter()
        batch = run.batching.batch(step)
        data = time.perf_counter()
        run.trainer.step(algorithm, batch, run.optimizer, context, measure=False)
        done = time.perf_counter()
        images = batch.crops[0].flatten(0, 1)
        prepared = algorithm.network.encoder.prepare(images).contiguous(memory_format=torch.channels_last)
        for parameter in algorithm.parameters():
            parameter.grad = None
        bare = time.perf_counter()
        algorithm.network.head(algorithm.network.encoder.backbone(prepared)).sum().backward()
        after = time.perf_counter()
        if step >= WARM:
            for key, value in (("step", done - began), ("data", data - began), ("bare", after - bare)):
                seconds[key].append(value)
    rates = {key: batch_size / statistics.mean(seconds[key]) for key in ("step", "bare")}
    return rates | {"data_share": sum(seconds["data"]) / sum(seconds["step"])}


def lightly_loader(batch_size: int) -> Any:
    """Batches of two views of 10,000 made-up images; making views costs the same whatever is in them."""
    import torch
    from lightly.transforms import SimCLRTransform  # pyright: ignore[reportMissingImports]
    from PIL import Image

    arrays = torch.randint(0, 256, (10_000, 32, 32, 3), dtype=torch.uint8).numpy()
    transform = SimCLRTransform(input_size=32, gaussian_blur=0.0)

    class Views(torch.utils.data.Dataset):
        def __len__(self):
            return len(arrays)

        def __getitem__(self, index):
            return transform(Image.fromarray(arrays[index]))

    return torch.utils.data.DataLoader(Views(), batch_size, shuffle=True, drop_last=True, num_workers=2)


def by_lightly(counted: int) -> dict[str, float]:
    """Pairs a second of lightly's SimCLR, end to end."""
    import torch
    from lightly.loss import NTXentLoss  # pyright: ignore[reportMissingImports]
    from lightly.models.modules import SimCLRProjectionHead  # pyright: ignore[reportMissingImports]
    from torch import nn

    def block(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2))

    encoder = nn.Sequential(block(3), block(64), block(64), block(64), nn.Flatten())
    model = nn.Sequential(encoder, SimCLRProjectionHead(256, 256, 128))
    loss = NTXentLoss(0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    began = 0.0
    for number, views in enumerate(lightly_loader(BATCH)):
        if number == WARM:
            began = time.perf_counter()
        if number == WARM + counted:
            break
        first, second = model(views[0]), model(views[1])
        optimizer.zero_grad()
        loss(first, second).backward()
        optimizer.step()
    return {"step": counted * BATCH / (time.perf_counter() - began)}


def rows(settings: Settings) -> Iterator[Row]:
    """The step beside the bare pass and lightly, and what views take of it."""
    given = ("simclr_digits", 8, 1) if settings.quick else ("simclr_cifar10", BATCH, COUNTED)
    others = parts(settings, {"lightly": by_lightly}, given[2])
    found = in_turn({"ours": lambda: apart(settings, ours, *given), **others}, settings.rounds)
    step, bare, share = ([result[key] for result in found["ours"]] for key in ("step", "bare", "data_share"))
    own, ratio = statistics.median(step), median_ratio(step, bare)
    yield Row("step / bare pass", own, "pairs/s", "bare pass", statistics.median(bare), ratio, Goal(least=0.9))
    for peer in others:
        rates = [result["step"] for result in found[peer]]
        other, ratio = statistics.median(rates), median_ratio(step, rates)
        yield Row("step / the peer's", own, "pairs/s", name(peer), other, ratio, Goal(least=2))
    yield Row("views' share of the step", 100 * statistics.median(share), "%", goal=Goal(most=10))
