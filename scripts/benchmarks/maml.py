"""Milliseconds and memory of a meta-step of second-order MAML, vectorised over tasks, beside a loop over them.

Omniglot 5-way 1-shot, one query a class, 32 tasks, 5 inner steps, strided conv4 as in `experiment=maml_omniglot`,
float32, forward and backward pass alone. The loop is `ssl_runner.algorithms.reference_loop` with torch's own batch
normalisation; it calls backward after each task, as one does who minds memory, or once. Chunks are
`trainer.accumulate_grad_batches`. GFLOP are those of the loop's convolutions and products, for all; the peak is that
of one large product.
"""

import statistics
import time
from collections.abc import Callable, Iterator

from .measure import apart, exponent, grown, in_turn, median_ratio, repeated, wired
from .processes import rows_of_processes
from .row import Goal, Row, Settings

TASKS = 32
OMNIGLOT = ["experiment=maml_omniglot", "algorithm.inner_steps=5"]
QUICK = ["experiment=maml_omniglot", "algorithm.inner_steps=1", "dataset=digits", "dataset.split=classes"]
CHUNKS = [4, 8, 16, 32]  # tasks
LOOP, LOOP_AT_ONCE, ALL = "loop, backward after each task", "loop, one backward", "32 tasks at once"
FASTER = {32: 3, 64: 2}  # than the loop, by width of conv4


def steps_of(experiment: list[str], width: int, tasks: int) -> dict[str, Callable[[], None]]:
    """A meta-step by name, after a small one that loads libraries and starts threads."""
    from ssl_runner.algorithms.reference_loop import meta_loss_by_loop
    from ssl_runner.runtime.step_context import StepContext

    overrides = [*experiment, f"model.encoder.width={width}"]
    run = wired([*overrides, f"batching.tasks_per_batch={tasks}", "eval=[]"])
    algorithm, batch, context = run.algorithm.train(), run.batching.batch(0), StepContext(0, 1, 0, run.device)

    def vectorised(pieces: list) -> None:
        algorithm.zero_grad()
        for piece in pieces:
            (algorithm.training_step(piece, context).loss * (len(piece) / tasks)).backward()

    def loop(pieces: list) -> None:
        algorithm.zero_grad()
        for piece in pieces:
            (meta_loss_by_loop(algorithm, piece) * (len(piece) / tasks)).backward()

    one = batch.chunk(tasks)[:1]
    loop(one)
    vectorised(one)
    named: dict[str, Callable[[], None]] = {LOOP: lambda: loop(batch.chunk(tasks)), LOOP_AT_ONCE: lambda: loop([batch])}
    for size in (size for size in CHUNKS if size <= tasks):
        named[f"{size} tasks at once"] = lambda size=size: vectorised(batch.chunk(tasks // size))
    return named


def milliseconds(experiment: list[str], width: int, tasks: int, rounds: int) -> dict[str, list[float]]:
    """Of each, in each round."""
    named = steps_of(experiment, width, tasks)

    def timed(step: Callable[[], None]) -> float:
        began = time.perf_counter()
        step()
        return 1000 * (time.perf_counter() - began)

    found = in_turn({name: lambda step=step: timed(step) for name, step in named.items()}, rounds + 1)
    return {name: each[1:] for name, each in found.items()}  # the first is not counted


def megabytes(experiment: list[str], width: int, tasks: int, kind: str) -> float:
    """What two steps make this process grow by at most."""
    step = steps_of(experiment, width, tasks)[kind]
    return grown(lambda: (step(), step()))


def growth(experiment: list[str], width: int, tasks: list[int]) -> list[list[float]]:
    """Seconds of a step and MB, all tasks at once, by their number."""
    from ssl_runner.runtime.step_context import StepContext

    found = []
    for count in tasks:
        overrides = [*experiment, f"model.encoder.width={width}", f"batching.tasks_per_batch={count}", "eval=[]"]
        run = wired(overrides)
        algorithm, batch, context = run.algorithm.train(), run.batching.batch(0), StepContext(0, 1, 0, run.device)

        def step(algorithm=algorithm, batch=batch, context=context) -> None:
            algorithm.zero_grad()
            algorithm.training_step(batch, context).loss.backward()

        found.append([repeated(step, 2), grown(step)])
    return found


def gflop(experiment: list[str], width: int, tasks: int) -> float:
    """Of one meta-step."""
    from torch.utils.flop_counter import FlopCounterMode

    loop = steps_of(experiment, width, tasks)[LOOP]
    with FlopCounterMode(display=False) as counter:
        loop()
    return counter.get_total_flops() / 1e9


def peak(side: int) -> float:
    """GFLOP/s of a product of two float32 matrices of so many rows."""
    import torch

    one, other = torch.randn(2, side, side)
    return 2 * side**3 / repeated(lambda: torch.mm(one, other), 9) / 1e9


def rows(settings: Settings) -> Iterator[Row]:
    """Each way of taking the step beside the loop, growth with the tasks, and two processes beside one."""
    experiment, tasks, widths = OMNIGLOT, TASKS, [32, 64]
    if settings.quick:
        experiment, tasks, widths = QUICK, 4, [4]
    for width in widths:
        yield from ways(settings, experiment, width, tasks)
    counts = [1, 2] if settings.quick else [1, 4, 16, 64, 256]
    seconds, memory = zip(*apart(settings, growth, experiment, widths[0], counts), strict=True)
    span = f"{counts[0]} to {counts[-1]} tasks at once"
    yield Row(f"growth of time, {span}", exponent(counts, seconds), "", goal=Goal(most=1.05))
    slope = exponent(counts[-3:], [max(mb, 0.1) for mb in memory[-3:]])
    yield Row(f"growth of memory, up to {counts[-1]} tasks", slope, "", goal=Goal(most=1.05))
    if not settings.quick:
        yield from rows_of_processes(settings)


def ways(settings: Settings, experiment: list[str], width: int, tasks: int) -> Iterator[Row]:
    """Of one width: the loop's time over each way's, memory beside the loop that holds as many graphs."""
    took = apart(settings, milliseconds, experiment, width, tasks, settings.rounds)
    work, most = (
        apart(settings, gflop, experiment, width, tasks),
        apart(settings, peak, 256 if settings.quick else 2048),
    )
    held = {kind: apart(settings, megabytes, experiment, width, tasks, kind) for kind in took}
    slow = statistics.median(took[LOOP])
    for kind, each in took.items():
        own = statistics.median(each)
        goal = Goal(least=FASTER[width]) if kind == ALL and width in FASTER else None
        yield Row(
            f"conv4-{width}, {kind}: the loop's time / it", own, "ms", LOOP, slow, median_ratio(took[LOOP], each), goal
        )
        goal = Goal(most=2) if kind == ALL else None
        memory, graphs = held[kind], held[LOOP_AT_ONCE]
        yield Row(f"conv4-{width}, {kind}: memory", memory, "MB", LOOP_AT_ONCE, graphs, memory / max(graphs, 0.1), goal)
    fastest = min(map(statistics.median, took.values()))
    share = 100 * work / (fastest / 1000) / most
    yield Row(f"conv4-{width}, fastest: of the peak", share, "%", f"{most:,.0f} GFLOP/s, {work:.1f} GFLOP a step")
