"""What a SimCLR step costs: this runner's whole step, the bare forward and backward pass in it, and lightly end to end.

    python scripts/benchmarks/simclr.py                       # runner against bare pass
    python scripts/benchmarks/simclr.py --lightly PYTHON      # and against lightly 1.6.0 in that interpreter

CIFAR-10, conv4-64 with projector, batch 256, CPU. The parts run in turn, each in a process of its own, `--rounds`
times; medians and the ratio round by round are printed, because these timings are noisy.

Protocol for lightly: CIFAR-10 arrays in memory, `Image.fromarray` and `SimCLRTransform(input_size=32,
gaussian_blur=0.0)` per item, DataLoader with 2 workers, `SimCLRProjectionHead(256, 256, 128)`, `NTXentLoss(0.5)`, SGD;
rate over 14 batches after 3. It does not decode either; it augments per image on PIL, and it keeps no freed pages.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

WARM, COUNTED, BATCH = 3, 14, 256


def runner() -> dict[str, float]:
    """Pairs of views a second of the whole step, and of forward and backward alone on the same batches."""
    import torch

    from ssl_runner.cli import validate
    from ssl_runner.cli.compose import Composer
    from ssl_runner.cli.search_path import conf_folder
    from ssl_runner.runtime.step_context import StepContext
    from ssl_runner.wiring import wire

    overrides = ["experiment=simclr_cifar10", "model/encoder=conv4", f"batching.batch_size={BATCH}", "eval=[]"]
    config, _ = validate.checked_config(Composer(conf_folder()), overrides)
    run = wire.wire(config)
    algorithm = run.algorithm.train()
    seconds: dict[str, list[float]] = {"step": [], "data": [], "bare": []}
    for step in range(WARM + COUNTED):
        context = StepContext(step, 1000, 0, run.device)
        began = time.perf_counter()
        batch = run.batching.batch(step)
        data = time.perf_counter()
        run.trainer.step(algorithm, batch, run.optimizer, context, measure=False)
        done = time.perf_counter()
        images = batch.crops[0].flatten(0, 1)  # type: ignore[union-attr]
        prepared = algorithm.network.encoder.prepare(images).contiguous(memory_format=torch.channels_last)
        for parameter in algorithm.parameters():
            parameter.grad = None
        bare = time.perf_counter()
        algorithm.network.head(algorithm.network.encoder.backbone(prepared)).sum().backward()
        after = time.perf_counter()
        if step >= WARM:
            for name, value in (("step", done - began), ("data", data - began), ("bare", after - bare)):
                seconds[name].append(value)
    rates = {name: BATCH / statistics.mean(values) for name, values in seconds.items() if name != "data"}
    return rates | {"data_share": sum(seconds["data"]) / sum(seconds["step"])}


def peer() -> dict[str, float]:
    """Pairs of views a second of lightly's SimCLR."""
    import torch
    from lightly.loss import NTXentLoss  # pyright: ignore[reportMissingImports]
    from lightly.models.modules import SimCLRProjectionHead  # pyright: ignore[reportMissingImports]
    from lightly.transforms import SimCLRTransform  # pyright: ignore[reportMissingImports]
    from PIL import Image
    from torch import nn

    arrays = torch.load(Path(sys.argv[-1]), weights_only=True).permute(0, 2, 3, 1).contiguous().numpy()
    transform = SimCLRTransform(input_size=32, gaussian_blur=0.0)

    class Views(torch.utils.data.Dataset):
        def __len__(self):
            return len(arrays)

        def __getitem__(self, index):
            return transform(Image.fromarray(arrays[index]))

    def block(channels):
        return nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2))

    encoder = nn.Sequential(block(3), block(64), block(64), block(64), nn.Flatten())
    model = nn.Sequential(encoder, SimCLRProjectionHead(256, 256, 128))
    loss = NTXentLoss(0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = torch.utils.data.DataLoader(Views(), BATCH, shuffle=True, drop_last=True, num_workers=2)
    began = 0.0
    for number, views in enumerate(loader):
        if number == WARM:
            began = time.perf_counter()
        if number == WARM + COUNTED:
            break
        first, second = model(views[0]), model(views[1])
        optimizer.zero_grad()
        loss(first, second).backward()
        optimizer.step()
    return {"lightly": COUNTED * BATCH / (time.perf_counter() - began)}


def arrays(path: Path) -> None:
    """CIFAR-10's training images as one file that the other interpreter can read without this package."""
    import torch

    from ssl_runner.cli import validate
    from ssl_runner.cli.compose import Composer
    from ssl_runner.cli.search_path import conf_folder
    from ssl_runner.config.building import build

    config, _ = validate.checked_config(Composer(conf_folder()), ["experiment=simclr_cifar10"])
    torch.save(build(config["dataset"], "dataset").train.images[:10_000].clone(), path)


def part(python: str, *arguments: str) -> dict[str, float]:
    """Run one part in a process of its own."""
    done = subprocess.run([python, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lightly", metavar="PYTHON", help="interpreter that has lightly 1.6.0")
    parser.add_argument("--rounds", type=int, default=5, help="in which the parts take turns")
    parser.add_argument("--part", choices=["runner", "lightly"], help=argparse.SUPPRESS)
    parser.add_argument("arrays", nargs="?", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(runner() if asked.part == "runner" else peer()))
        return
    file = Path("outputs") / "cifar10_images.pt"
    if asked.lightly:
        file.parent.mkdir(exist_ok=True)
        arrays(file)
    rounds = []
    for _ in range(asked.rounds):
        found = part(sys.executable, "--part", "runner")
        if asked.lightly:
            found |= part(asked.lightly, "--part", "lightly", str(file))
        print({name: round(value, 3) for name, value in found.items()}, flush=True)
        rounds.append(found)
    for name in rounds[0]:
        print(f"{name:>10}: median {statistics.median(found[name] for found in rounds):.3f}")
    print(f"step / bare: median {statistics.median(found['step'] / found['bare'] for found in rounds):.3f}")
    if asked.lightly:
        print(f"step / lightly: median {statistics.median(found['step'] / found['lightly'] for found in rounds):.2f}")


if __name__ == "__main__":
    main()
