"""Memory and time of a SimCLR step whose views are encoded in eight chunks, beside the step in one.

ResNet-18 on MNIST, 256 pairs, each in a process of its own; also what the program says before a run that a step
needs.
"""

import time
from collections.abc import Iterator

from .measure import apart, grown, in_turn, median_ratio, medians, wired
from .row import Goal, Row, Settings

MNIST = ["experiment=simclr_cifar10", "dataset=mnist", "eval=[]", "batching.batch_size=256"]
DIGITS = ["experiment=simclr_digits", "eval=[]", "batching.batch_size=16"]


def step(overrides: list[str], chunks: int) -> dict[str, float]:
    """MB by which the process grows in its first step, the estimate of it, and the step's seconds."""
    from ssl_runner.runtime.step_context import StepContext

    run = wired([*overrides, f"algorithm.encode_chunks={chunks}"])
    algorithm, batch = run.algorithm.train(), run.batching.batch(0)
    context = StepContext(0, 1000, 0, run.device)
    began = time.perf_counter()
    megabytes = grown(lambda: run.trainer.step(algorithm, batch, run.optimizer, context, measure=False))
    return {"MB": megabytes, "estimate": (run.step_bytes or 0) / 1e6, "s": time.perf_counter() - began}


def rows(settings: Settings) -> Iterator[Row]:
    """Eight chunks beside one."""
    overrides, many = (DIGITS, 2) if settings.quick else (MNIST, 8)
    parts = {chunks: lambda chunks=chunks: apart(settings, step, overrides, chunks) for chunks in (1, many)}
    found = in_turn({str(chunks): part for chunks, part in parts.items()}, settings.rounds)
    one, eight = medians(found["1"]), medians(found[str(many)])
    for key, what, goal in (("MB", "memory", Goal(most=0.25)), ("s", "time", Goal(most=1.3))):
        ratio = median_ratio(
            [result[key] for result in found[str(many)]], [max(result[key], 1e-3) for result in found["1"]]
        )
        yield Row(f"{many} chunks: {what} / in one", eight[key], key, "in one", one[key], ratio, goal)
    for chunks, middle in ((1, one), (many, eight)):
        ratio = middle["estimate"] / max(middle["MB"], 1e-3)
        yield Row(f"{chunks} chunks: estimate / memory", middle["estimate"], "MB", "memory", middle["MB"], ratio)
