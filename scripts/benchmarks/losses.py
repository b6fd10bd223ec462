"""What contrastive losses of many pairs cost: milliseconds of forward and backward pass, and memory beside the inputs.

    OMP_NUM_THREADS=2 python scripts/benchmarks/losses.py             # ours
    OMP_NUM_THREADS=2 python scripts/benchmarks/losses.py --rounds 9  # and lightly's NTXentLoss, where it is installed

float32 embeddings of 128 numbers on the CPU. Each figure comes from a process of its own: the median of its passes
after one that is not counted, and its greatest resident memory less that before the first pass (Linux). Ours and
lightly's take turns; ratios are of each round's two, and their median is printed, because these timings are noisy.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

DIMENSION, TEMPERATURE, CLASSES = 128, 0.1, 100
PASSES = {256: 60, 1024: 15, 4096: 5, 32768: 1}
NAMES = ["nt_xent", "debiased", "hcl", "dcl", "supcon"]


def loss_of(name: str) -> Callable:
    """From two views (N, D) each, and labels (N,), to a scalar."""
    import torch

    if name == "lightly":
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
    }[name]
    context = StepContext(0, 1, 0, torch.device("cpu"))
    return lambda first, second, labels: ours(Embeddings(torch.stack([first, second]), labels=labels), context)[0]


def measured(name: str, n: int) -> dict[str, float]:
    """Milliseconds and megabytes of one loss of n pairs, in this process."""
    import torch

    loss = loss_of(name)

    def views(count: int) -> tuple:
        torch.manual_seed(0)
        first = torch.randn(count, DIMENSION)
        second = first + torch.randn(count, DIMENSION)
        return first.requires_grad_(), second.requires_grad_(), torch.arange(count) % CLASSES

    loss(*views(4)).backward()  # libraries loaded, threads started
    inputs = views(n)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * resource.getpagesize() / 1e6
    milliseconds = []
    for _ in range(PASSES[n] + (n < max(PASSES))):
        for view in inputs[:2]:
            view.grad = None
        began = time.perf_counter()
        loss(*inputs).backward()
        milliseconds.append(1000 * (time.perf_counter() - began))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"ms": statistics.median(milliseconds[-PASSES[n] :]), "MB": most - before}


def apart(name: str, n: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--part", name, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} of {n} pairs failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(n: int, names: list[str], rounds: int) -> None:
    """Print a line for each loss; the last of the names is the one compared with."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            found[name].append(apart(name, n))
    for name in names:
        ms, megabytes = (statistics.median(result[key] for result in found[name]) for key in ("ms", "MB"))
        ratio = "-"
        if "lightly" in found:
            pairs = zip(found[name], found["lightly"], strict=True)
            ratio = f"{statistics.median(ours['ms'] / theirs['ms'] for ours, theirs in pairs):.2f}"
        print(f"| {n:,} | {name} | {ms:,.1f} | {megabytes:,.0f} | {ratio} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="in which losses take turns")
    parser.add_argument("--pairs", type=int, nargs="+", choices=PASSES, default=list(PASSES), help="of views")
    parser.add_argument("--losses", nargs="+", choices=NAMES, default=NAMES, help="of ours")
    parser.add_argument("--part", nargs=2, metavar=("LOSS", "PAIRS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(measured(asked.part[0], int(asked.part[1]))))
        return
    peer = ["lightly"] if importlib.util.find_spec("lightly") else []
    print("| pairs | loss | ms | MB | time / lightly's |\n|---|---|---|---|---|")
    for n in asked.pairs:
        if n == max(PASSES):  # the matrix alone would take 17 GB, several times over
            row(n, asked.losses[:1], 1)
        else:
            row(n, asked.losses + peer, asked.rounds)


if __name__ == "__main__":
    main()
