"""What a meta-step of second-order MAML costs: ours, vectorised over tasks, beside a Python loop over them.

    OMP_NUM_THREADS=2 python scripts/benchmarks/maml.py                      # conv4-32 and conv4-64
    OMP_NUM_THREADS=2 python scripts/benchmarks/maml.py --widths 32 --rounds 9

Omniglot 5-way 1-shot, 1 query a class, 32 tasks, 5 inner steps, strided conv4 as in `experiment=maml_omniglot`,
float32 on the CPU; forward and backward pass, no data and no optimizer. The loop is that of
`ssl_runner.algorithms.reference_loop`, with torch's own batch normalisation, and calls backward after each task, as one
does who minds memory; `loop, one backward` does so at the end of the batch. Ours is timed in chunks of tasks, which is
what `trainer.accumulate_grad_batches` makes: 32 tasks are one chunk at accumulate_grad_batches=1.

Milliseconds: medians of rounds in one process, in which all take turns, forwards and backwards; ratios are within
rounds. CPU ms are of all threads together, and with one thread hold on a busy machine too. Memory: greatest resident
memory of a process of its own, less that before its first step (Linux). All have the same allocator
(`trainer.keep_pages`). GFLOP are those of the loop's convolutions and matrix products, counted by torch, for all; the
peak is that of one large product of float32 matrices.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TASKS, INNER_STEPS = 32, 5
CHUNKS = [1, 2, 4, 8, 16, 32]  # tasks
LOOP, LOOP_AT_ONCE = "loop", "loop, one backward"


def steps_of(width: int, keep_pages: bool) -> tuple[dict[str, Callable[[], None]], Callable[[], None]]:
    """A meta-step by name, and a small one that loads libraries and starts threads."""
    from ssl_runner.algorithms.reference_loop import meta_loss_by_loop
    from ssl_runner.cli import validate
    from ssl_runner.cli.compose import Composer
    from ssl_runner.cli.search_path import conf_folder
    from ssl_runner.runtime.step_context import StepContext
    from ssl_runner.wiring import wire

    overrides = ["experiment=maml_omniglot", f"model.encoder.width={width}", f"algorithm.inner_steps={INNER_STEPS}"]
    overrides += [f"batching.tasks_per_batch={TASKS}", f"trainer.keep_pages={str(keep_pages).lower()}", "eval=[]"]
    config, _ = validate.checked_config(Composer(conf_folder()), overrides)
    run = wire.wire(config)
    algorithm, batch, context = run.algorithm.train(), run.batching.batch(0), StepContext(0, 1, 0, run.device)

    def vectorised(pieces: list, of: int = TASKS) -> None:
        algorithm.zero_grad()
        for piece in pieces:
            (algorithm.training_step(piece, context).loss * (len(piece) / of)).backward()

    def loop(pieces: list, of: int = TASKS) -> None:
        algorithm.zero_grad()
        for piece in pieces:
            (meta_loss_by_loop(algorithm, piece) * (len(piece) / of)).backward()  # type: ignore[arg-type]

    one = batch.chunk(TASKS)[:1]
    named: dict[str, Callable[[], None]] = {
        LOOP: lambda: loop(batch.chunk(TASKS)),
        LOOP_AT_ONCE: lambda: loop([batch]),
    }
    for size in CHUNKS:
        named[f"chunks of {size}"] = lambda size=size: vectorised(batch.chunk(TASKS // size))
    return named, lambda: (loop(one), vectorised(one), None)[-1]


def milliseconds(width: int, rounds: int, keep_pages: bool) -> dict[str, list[tuple[float, float]]]:
    """Of each, in each round: by the context, and of CPU."""
    named, small = steps_of(width, keep_pages)
    small()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in named}
    for number in range(rounds + 1):  # the first is not counted
        for name in list(named) if number % 2 else reversed(named):
            began = time.perf_counter(), time.process_time()
            named[name]()
            ended = time.perf_counter(), time.process_time()
            if number:
                found[name].append((1000 * (ended[0] - began[0]), 1000 * (ended[1] - began[1])))
    return found


def megabytes(width: int, name: str, keep_pages: bool) -> float:
    """What two steps make this process grow by at most."""
    named, small = steps_of(width, keep_pages)
    small()
    # what came before has left pages, free but resident, in which a step would hide; and a peak of its own
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in range(2):
        named[name]()
    return resident("VmHWM") - before


def resident(kind: str) -> float:
    """MB, now (VmRSS) or at most since the peak was reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{kind}:"))


def gflop(width: int) -> float:
    """Of one meta-step."""
    from torch.utils.flop_counter import FlopCounterMode

    named, _ = steps_of(width, True)
    with FlopCounterMode(display=False) as counter:
        named[LOOP]()
    return counter.get_total_flops() / 1e9


def peak() -> float:
    """GFLOP/s of a product of two float32 matrices of 2,048 rows, the best of ten."""
    import torch

    side = 2048
    one, other = torch.randn(2, side, side)
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        torch.mm(one, other)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds) / 1e9


def apart(part: str, *arguments: str, keep_pages: bool) -> Any:
    """A part in a process of its own."""
    command = [sys.executable, __file__, "--part", part, *arguments, *([] if keep_pages else ["--no-keep-pages"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{part} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(width: int, rounds: int, most: float, keep_pages: bool) -> None:
    """Print a line for each way of taking the step."""
    took = apart("time", str(width), str(rounds), keep_pages=keep_pages)
    work = apart("gflop", str(width), keep_pages=keep_pages)
    print(f"\nconv4-{width}: {work:.1f} GFLOP a step, peak {most:.0f} GFLOP/s\n")
    print("| step | ms | loop / it | CPU ms | loop / it | MB | MB / loop's | GFLOP/s | of peak |")
    print(f"|{' --- |' * 9}", flush=True)
    of_loop = 0.0  # MB, of the first row
    for name, each in took.items():
        memory = apart("memory", str(width), name, keep_pages=keep_pages)
        of_loop, cells = of_loop or memory, []
        for kind in range(2):
            pairs = zip(took[LOOP], each, strict=True)
            cells.append(f"{statistics.median(own[kind] for own in each):,.0f}")
            cells.append(f"{statistics.median(loop[kind] / own[kind] for loop, own in pairs):.2f}")
        rate = work / statistics.median(own[0] for own in each) * 1000
        cells += [f"{memory:,.0f}", f"{memory / of_loop:.2f}", f"{rate:.0f}", f"{rate / most:.1%}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64], help="of conv4")
    parser.add_argument("--rounds", type=int, default=5, help="in which all take turns")
    parser.add_argument("--no-keep-pages", dest="keep_pages", action="store_false", help="torch's own allocator")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not asked.part:
        most = apart("peak", keep_pages=asked.keep_pages)
        for width in asked.widths:
            table(width, asked.rounds, most, asked.keep_pages)
        return
    part, *arguments = asked.part
    if part == "peak":
        print(json.dumps(peak()))
    elif part == "gflop":
        print(json.dumps(gflop(int(arguments[0]))))
    elif part == "memory":
        print(json.dumps(megabytes(int(arguments[0]), arguments[1], asked.keep_pages)))
    else:
        print(json.dumps(milliseconds(int(arguments[0]), int(arguments[1]), asked.keep_pages)))


if __name__ == "__main__":
    main()
