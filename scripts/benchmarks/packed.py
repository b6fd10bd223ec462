"""What images beyond memory cost: packed files against torchvision's and lightly's loaders, start-up, and memory.

    python scripts/benchmarks/packed.py                         # 50,000 images, two views at 224 pixels
    python scripts/benchmarks/packed.py --images 2000           # fewer
    python scripts/benchmarks/packed.py --lightly PYTHON        # and against lightly in that interpreter
    python scripts/benchmarks/packed.py --index                 # start-up and memory from 10^3 to 10^6 files

JPEGs of about 500 x 400 pixels are generated once in `--folder`. Every loader makes two float views in [0, 1] of 224
pixels with SimCLR's augmentation at full strength: random resized crop, flip, jitter (0.8, 0.8, 0.8, 0.2) with
probability 0.8, gray 0.2, blur of 23 pixels 0.5. Nothing is learned from them. Each part runs in a process of its own,
in turn, `--rounds` times; medians are printed. Peers: ImageFolder, DataLoader with one worker per core and transforms
v2 on PIL images (as their tutorials have it); LightlyDataset with SimCLRTransform(224, 1.0). A warm-up comes first.

Memory is the resident set at its peak, less that of a process that has imported torch alone.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

BATCH, WARM = 64, 2


def ours(folder: Path, counted: int, epochs: int) -> dict[str, float]:
    """Images a second, seconds to the first batch's plan, and memory after each epoch."""
    began = time.perf_counter()
    import torch

    from ssl_runner.data.batching.view_batching import ViewBatching
    from ssl_runner.data.sources.image_folder import image_folder
    from ssl_runner.runtime import allocator

    allocator.keep_pages()  # as every run does
    imported = time.perf_counter()
    given = {"split": "images", "class_split": None, "class_counts": None, "validation": 0, "test": 0.01}
    splits = image_folder(str(folder), **given, split_seed=0, size=224, channels=3, storage="packed")
    batching = ViewBatching(augmentation(), BATCH, 2)
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
    return found | {"rate": counted * BATCH / (time.perf_counter() - began)}


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


def torchvision_peer(folder: Path, counted: int) -> dict[str, float]:
    """Images a second of ImageFolder, transforms v2 and a DataLoader."""
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    jitter = v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8)
    blur = v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 0.5)
    crop = [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2), blur]
    view = v2.Compose([*crop, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    return timed(ImageFolder(str(folder), lambda image: (view(image), view(image))), counted)


def lightly_peer(folder: Path, counted: int) -> dict[str, float]:
    """Images a second of LightlyDataset and SimCLRTransform."""
    from lightly.data import LightlyDataset  # pyright: ignore[reportMissingImports]
    from lightly.transforms import SimCLRTransform  # pyright: ignore[reportMissingImports]

    return timed(LightlyDataset(str(folder), transform=SimCLRTransform(224, cj_strength=1.0)), counted)


def timed(dataset, counted: int) -> dict[str, float]:
    """Images a second of a DataLoader."""
    from torch.utils.data import DataLoader

    workers = len(os.sched_getaffinity(0))
    batches = iter(DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True))
    for _ in range(WARM + workers):  # as many as are decoded ahead
        next(batches)
    began = time.perf_counter()
    for _ in range(counted):
        next(batches)
    return {"rate": counted * BATCH / (time.perf_counter() - began)}


def resident() -> float:
    """Resident memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def torch_alone(_: Path, __: int) -> dict[str, float]:
    """Resident memory of a process with torch alone."""
    import torch

    torch.mm(torch.rand(9, 9), torch.rand(9, 9))
    return {"mb": resident()}


def index(files: int) -> dict[str, float]:
    """Seconds and memory to open a generated index of this many images, and to plan a batch of them."""
    import tempfile

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


def generate(folder: Path, images: int) -> None:
    """Write JPEGs of about 500 x 400 pixels and 70 kB in ten classes, those that are missing."""
    paths = [folder / f"class{number % 10}" / f"{number:06d}.jpg" for number in range(images)]
    missing = [(path, number) for number, path in enumerate(paths) if not path.exists()]
    for path in paths[:10]:
        path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as workers:
        for _ in workers.map(write_image, missing, chunksize=64):
            pass


def write_image(named: tuple[Path, int]) -> None:
    """Write image `number` to `path`: the same bytes each time."""
    import numpy as np
    from PIL import Image

    path, number = named
    draws, file = np.random.default_rng(number), io.BytesIO()
    height, width = (400, 500) if draws.random() < 0.7 else (500, 400)
    small = Image.fromarray(draws.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noise = draws.integers(-20, 21, smooth.shape, dtype=np.int16)
    Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    path.write_bytes(file.getvalue())


PARTS = {"ours": ours, "torchvision": torchvision_peer, "lightly": lightly_peer, "torch": torch_alone}


def measured(python: str, part: str, *arguments: object) -> dict[str, float]:
    """The figures of a part, from a process of its own."""
    words = [python, __file__, "--part", part, *map(str, arguments)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return json.loads(told.splitlines()[-1])


def compared(options: argparse.Namespace) -> None:
    """Print rates and their ratios, second start, and memory."""
    folder = options.folder / str(options.images)
    generate(folder, options.images)
    steps = max(1, min(options.batches, int(options.images * 0.99) // BATCH - WARM - 8))
    first = measured(sys.executable, "ours", folder, 1, 0)
    print(f"packing and first start: {first['start_seconds']:.1f} s")
    rates: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        found = measured(sys.executable, "ours", folder, steps, 0)
        rates.setdefault("ours", []).append(found["rate"])
        start = found["start_seconds"]
        rates.setdefault("torchvision", []).append(measured(sys.executable, "torchvision", folder, steps)["rate"])
        if options.lightly:
            rates.setdefault("lightly", []).append(measured(options.lightly, "lightly", folder, steps)["rate"])
    own = statistics.median(rates["ours"])
    for name, values in rates.items():
        rate = statistics.median(values)
        print(f"{name}: {rate:.1f} images/s (two views of each), ours is {own / rate:.2f} times as fast")
    print(f"second start: {start:.2f} s beyond imports")
    if not options.lightly:
        print("lightly: left out; give its interpreter with --lightly")
    if options.epochs:
        alone = measured(sys.executable, "torch", folder, 0)["mb"]
        grown = measured(sys.executable, "ours", folder, 0, options.epochs)
        after = [grown[f"mb_after_epoch_{epoch + 1}"] - alone for epoch in range(options.epochs)]
        print(f"memory beyond torch's {alone:.0f} MB after each epoch: {', '.join(f'{mb:.0f} MB' for mb in after)}")


def main() -> None:
    form = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form.add_argument("--images", type=int, default=50_000)
    form.add_argument("--folder", type=Path, default=Path("packed_benchmark"), help="where images are generated")
    form.add_argument("--batches", type=int, default=40, help=f"counted batches of {BATCH} images")
    form.add_argument("--rounds", type=int, default=3)
    form.add_argument("--epochs", type=int, default=3, help="whole epochs over which memory is watched; 0 for none")
    form.add_argument("--lightly", metavar="PYTHON", help="an interpreter that has lightly")
    form.add_argument("--index", action="store_true", help="only start-up and memory by the number of files")
    form.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = form.parse_args()
    if options.part and options.part[0] == "index":
        print(json.dumps(index(int(options.part[1]))))
    elif options.part:
        name, folder, *numbers = options.part
        print(json.dumps(PARTS[name](Path(folder), *map(int, numbers))))
    elif options.index:
        for power in range(3, 7):
            found = measured(sys.executable, "index", 10**power)
            print(f"{found['files']:9,} files: opened in {found['seconds']:.3f} s, {found['mb']:.0f} MB")
    else:
        compared(options)


if __name__ == "__main__":
    main()
