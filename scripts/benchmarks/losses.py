"""Milliseconds and memory of contrastive losses, forward and backward pass, beside lightly's NTXentLoss.

float32 embeddings of 128 numbers on the CPU; T = 0.1. Each figure comes from a process of its own. Memory is beside
the inputs. lightly has none of the others in this form, so all are held against its NTXentLoss; its matrix of 32,768
pairs alone would take 17 GB, several times over.
"""

import statistics
from collections.abc import Callable, Iterator

from .measure import apart, exponent, grown, in_turn, median_ratio, medians, repeated
from .peers import name, parts
from .row import Goal, Row, Settings

DIMENSION, TEMPERATURE, CLASSES = 128, 0.1, 100
PASSES = {64: 100, 256: 60, 1024: 15, 4096: 5, 16384: 1, 32768: 1}
COMPARED = {
    256: ["nt_xent", "debiased", "hcl", "dcl", "supcon"],
    1024: ["nt_xent", "hcl"],
    4096: ["nt_xent", "hcl"],
}
MOST = {256: 1.1, 1024: 0.6, 4096: 0.2}  # of lightly's time


def loss_of(kind: str) -> Callable:
    """From two views (N, D) each, and labels (N,), to a scalar."""
    import torch

    if kind == "lightly":
        from lightly.loss import NTXentLoss  # pyright: ignore[reportMissingImports]

        theirs = NTXentLoss(TEMPERATURE)
        return lambda first, second, labels: theirs(first, second)

    from ssl_runner.losses.dcl import DCL
    from ssl_runner.losses.debiased import Debiased
    from ssl_runner.losses.hard_negative import HardNegative
    from ssl_runner.losses.loss import Embeddings
    from ssl_runner.losses.nt_xent import NTXent
    from ssl_runner.losses.supcon import SupCon
    from ssl_runner.runtime.step_context import StepContext

    ours = {
        "nt_xent": NTXent(TEMPERATURE),
        "debiased": Debiased(TEMPERATURE, 0.01),
        "hcl": HardNegative(TEMPERATURE, 0.01, 1.0),
        "dcl": DCL(TEMPERATURE, None),
        "supcon": SupCon(TEMPERATURE),
    }[kind]
    context = StepContext(0, 1, 0, torch.device("cpu"))
    return lambda first, second, labels: ours(Embeddings(torch.stack([first, second]), labels=labels), context)[0]


def ours(kind: str, n: int, passes: int) -> dict[str, float]:
    """Milliseconds, the median of so many passes, and megabytes of one loss of n pairs, in this process."""
    import torch

    loss = loss_of(kind)

    def views(count: int) -> tuple:
        torch.manual_seed(0)
        first = torch.randn(count, DIMENSION)
        second = first + torch.randn(count, DIMENSION)
        return first.requires_grad_(), second.requires_grad_(), torch.arange(count) % CLASSES

    def step() -> None:
        for view in inputs[:2]:
            view.grad = None
        loss(*inputs).backward()

    loss(*views(4)).backward()  # libraries loaded, threads started
    inputs = views(n)
    megabytes = grown(step)
    return {"ms": 1000 * repeated(step, passes), "MB": megabytes}


def by_lightly(n: int, passes: int) -> dict[str, float]:
    """The same of lightly's NTXentLoss."""
    return ours("lightly", n, passes)


def rows(settings: Settings) -> Iterator[Row]:
    """Time and memory beside lightly's, and their growth with the pairs."""
    compared = {64: COMPARED[256]} if settings.quick else COMPARED
    passes = dict.fromkeys(PASSES, 2) if settings.quick else PASSES
    for n, kinds in compared.items():
        mine = {kind: lambda kind=kind, n=n: apart(settings, ours, kind, n, passes[n]) for kind in kinds}
        found = in_turn(mine | parts(settings, {"lightly": by_lightly}, n, passes[n]), settings.rounds)
        for kind in kinds:
            yield from beside(f"{kind}, {n:,} pairs", found[kind], found.get("lightly"), n)
    sizes = [64, 256] if settings.quick else list(PASSES)
    costs = [apart(settings, ours, "nt_xent", n, passes[n]) for n in sizes]
    largest = f"nt_xent, {sizes[-1]:,} pairs"
    yield Row(f"{largest}: time", costs[-1]["ms"], "ms")
    yield Row(f"{largest}: memory", costs[-1]["MB"], "MB", "the matrix", (2 * sizes[-1]) ** 2 * 4e-6)
    span = f"{sizes[0]} to {sizes[-1]:,} pairs"
    slope = exponent(sizes, [cost["ms"] for cost in costs])
    yield Row(f"nt_xent: growth of time, {span}", slope, "", goal=Goal(most=2.1))
    slope = exponent(sizes[2:] or sizes, [max(cost["MB"], 0.1) for cost in costs[2:] or costs])
    yield Row("nt_xent: growth of memory, from 1,024 pairs", slope, "", goal=Goal(most=1.1))


def beside(what: str, own: list[dict], its: list[dict] | None, n: int) -> Iterator[Row]:
    """Time and memory of a loss."""
    middle = medians(own)
    if its is None:
        yield Row(f"{what}: time", middle["ms"], "ms")
        yield Row(f"{what}: memory", middle["MB"], "MB")
        return
    for key, what_of, goal in (("ms", "time", Goal(most=MOST.get(n, 2))), ("MB", "memory", Goal(most=1))):
        other, ratio = (
            statistics.median(r[key] for r in its),
            median_ratio([r[key] for r in own], [r[key] for r in its]),
        )
        yield Row(f"{what}: {what_of} / the peer's", middle[key], key, name("lightly"), other, ratio, goal)
