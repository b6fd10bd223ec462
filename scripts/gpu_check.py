"""What a GPU makes of the program: a table of speeds in under four minutes, then accuracies, each row as soon as it is
there.

    python scripts/gpu_check.py                          # speeds, then accuracies
    python scripts/gpu_check.py --only speed
    python scripts/gpu_check.py --only accuracy --epochs 20

It needs CIFAR-10 and Omniglot in `SSL_RUNNER_DATA`. The reference of the first rows is the forward and backward pass of
the same network on a batch that is there already, replayed as a CUDA graph: what the card can do with these kernels.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training.ahead import Ahead
from ssl_runner.training.loop import Loop
from ssl_runner.wiring import wire

SIMCLR = ["experiment=simclr_cifar10", "trainer.precision=bfloat16", "trainer.cudnn_benchmark=true", "eval=[]"]
WAYS = {"launched": "false", "recorded": "auto", "compiled": "true"}
PRETEXT = ["byol", "moco_v2", "moco_v3", "barlow_twins", "vicreg", "dino", "swav", "lejepa"]
META = ["protonet", "r2d2", "maml", "anil", "reptile", "context"]
SHORT = ["trainer.max_epochs=null", "trainer.max_steps=1000"]  # `auto` compiles longer ones
MOST = 1_000_000  # steps, so that schedules hardly move
BEGAN = time.perf_counter()


def row(name: str, /, **figures: Any) -> None:
    """Print a row of the table at once."""
    text = "  ".join(f"{key} {value}" for key, value in figures.items())
    print(f"[{time.perf_counter() - BEGAN:5.0f} s] {name:<28} {text}", flush=True)


class Silent:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, subject: str, text: str) -> None:
        self.told.append(text)

    def warn(self, text: str) -> None:
        self.told.append(text)


class Bench:
    """A run whose steps are taken by hand, as `Loop` takes them."""

    def __init__(self, words: list[str], compile: str) -> None:
        config, _ = validate.checked_config(Composer(conf_folder()), [*words, *SHORT, f"trainer.compile={compile}"])
        self.run = wire.wire(config)
        self.tracker = Silent()
        self.loop = Loop(self.run, Path("unused"), self.tracker, None)  # type: ignore[arg-type]
        self.ahead = Ahead(self.run.batching, self.run.device, MOST)
        self.run.algorithm.train()
        self.done = 0
        self.settings = self.run.trainer.process_settings()
        self.settings.__enter__()

    def take(self, steps: int, measure: bool = False) -> dict[str, torch.Tensor]:
        metrics = {}
        for step in range(self.done, self.done + steps):
            context = StepContext(step, MOST, self.run.seed, self.run.device)
            batch = self.ahead.batch(step)
            metrics = self.run.trainer.step(
                self.run.algorithm, batch, self.run.optimizer, context, measure, self.loop.gradients
            )
            self.ahead.make(step + 1)
        self.done += steps
        return metrics

    def milliseconds(self, steps: int) -> float:
        """Of a step, after those taken so far."""
        torch.cuda.synchronize()
        began = time.perf_counter()
        self.take(steps)
        torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - began) / steps

    @property
    def how(self) -> str:
        told = getattr(self.loop.gradients, "told", "")
        return told.replace("steps are launched one operation at a time, not recorded: ", "not recorded: ")


def timed(act: Callable[[], Any], times: int) -> float:
    """Milliseconds of an act, the mean of some."""
    act()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        act()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began) / times


def kernels(bench: Bench, steps: int = 5) -> dict[str, str]:
    """Launches by the processor and busy time of the device, of a step."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        bench.take(steps)
        torch.cuda.synchronize()
    averages = profile.key_averages()
    launches = sum(
        event.count for event in averages if event.key.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch"))
    )
    copies = sum(event.count for event in averages if event.key.startswith("cudaMemcpy"))
    waits = sum(event.count for event in averages if event.key.startswith(("cudaStreamSync", "cudaEventSync")))
    busy = sum(event.self_device_time_total for event in averages) / 1000 / steps
    return {
        "launches": f"{launches / steps:.0f}",
        "copies": f"{copies / steps:.0f}",
        "waits": f"{waits / steps:.1f}",
        "busy": f"{busy:.2f} ms",
    }


def simclr() -> None:
    """SimCLR's step in each way, against the replayed forward and backward pass."""
    reference = 0.0
    for way, compile in WAYS.items():
        began = time.perf_counter()
        bench = Bench(SIMCLR, compile)
        bench.take(8)
        torch.cuda.synchronize()
        first = time.perf_counter() - began
        took = bench.milliseconds(60)
        if way == "recorded":
            graphs = getattr(bench.loop.gradients, "graphs", {})
            recorded = next(iter(graphs.values())).graph if graphs else None
            if recorded is not None:
                reference = timed(recorded.replay, 30)
                row("simclr: replayed pass", ms=f"{reference:.2f}")
        pairs = 1000 * bench.run.batching.images_per_step / 2 / took
        row(
            f"simclr: {way}",
            ms=f"{took:.2f}",
            pairs_s=f"{pairs:,.0f}",
            of_replayed=f"{reference / took:.2f}" if reference else "-",
            first_8_steps=f"{first:.1f} s",
            **kernels(bench),
        )
        row(
            "",
            batch_alone=f"{timed(lambda bench=bench: bench.run.batching.batch(7), 20):.2f} ms",
            told=bench.tracker.told,
        )
        del bench
        clean()


def recipes(names: list[str], words: Callable[[str], list[str]], steps: int) -> None:
    """Milliseconds of a step, launched and recorded, and whether it could be recorded."""
    for name in names:
        figures, losses = {}, {}
        for way in ("launched", "recorded"):
            try:
                bench = Bench(words(name), WAYS[way])
                bench.take(8)
                figures[way] = f"{bench.milliseconds(steps):.2f} ms"
                losses[way] = float(bench.take(1, measure=True)["loss"])
                if bench.how:
                    figures["why"] = bench.how
            except Exception as error:  # the other rows matter
                figures[way] = f"failed: {type(error).__name__}: {str(error)[:300]}"
            bench = None  # type: ignore[assignment]
            clean()
        row(name, **figures, losses=" ".join(f"{value:.5f}" for value in losses.values()))


def clean() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def speed() -> None:
    """The table of speeds."""
    row("device", card=torch.cuda.get_device_name(), torch=torch.__version__, cpus=os.cpu_count())
    simclr()
    began = time.perf_counter()
    Bench(["experiment=protonet_omniglot", "eval=[]"], "false")
    row("omniglot", first_start=f"{time.perf_counter() - began:.1f} s")
    recipes(META, lambda name: [f"experiment={name}_omniglot", "eval=[]"], 30)
    recipes(PRETEXT, lambda name: [f"experiment={name}_cifar10", *SIMCLR[1:]], 20)


def accuracies(asked: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Methods and epochs."""
    yield "simclr", asked.simclr_epochs
    for name in ("byol", "moco_v3", "barlow_twins", "vicreg", "dino"):
        yield name, asked.epochs


def accuracy(asked: argparse.Namespace) -> None:
    """kNN at the last step, with minutes."""
    for name, epochs in accuracies(asked):
        folder = asked.outputs / f"{name}_{epochs}"
        words = [
            f"experiment={name}_cifar10",
            *SIMCLR[1:3],
            "eval=[knn]",
            "baselines=[]",
            f"trainer.max_epochs={epochs}",
        ]
        words += ["trainer.progress=false", "trainer.diagnostics_every=null", f"trainer.compile={asked.compile}"]
        words += ["trainer.log_every=100", "trainer.checkpoint_every=100000", f"hydra.run.dir={folder}"]
        done = subprocess.run(
            [sys.executable, "-m", "ssl_runner.train", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            row(name, failed=done.stderr.strip()[-600:])
            continue
        result = json.loads((folder / "result.json").read_text())
        row(
            name,
            epochs=epochs,
            knn=f"{result['metrics']['knn/top1']:.2%}",
            training=f"{result['training_seconds'] / 60:.2f} min",
            in_all=f"{result['seconds'] / 60:.2f} min",
            images_s=f"{result['images_per_second']:,.0f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["speed", "accuracy"])
    parser.add_argument("--epochs", type=int, default=20, help="of the methods beside SimCLR")
    parser.add_argument("--simclr-epochs", type=int, default=200)
    parser.add_argument("--compile", default="auto", choices=sorted(WAYS.values()))
    parser.add_argument("--outputs", type=Path, default=Path("outputs") / "gpu_check")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is visible here; run this on a machine with a GPU")
    if asked.only != "accuracy":
        speed()
    if asked.only != "speed":
        accuracy(asked)


if __name__ == "__main__":
    main()
