"""Made-up JPEGs of about 500 x 400 pixels and 70 kB."""

import io
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def generate(folder: Path, images: int) -> None:
    """Write JPEGs of about 500 x 400 pixels and 70 kB in ten classes, those that are missing."""
    paths = [folder / f"class{number % 10}" / f"{number:06d}.jpg" for number in range(images)]
    missing = [(path, number) for number, path in enumerate(paths) if not path.exists()]
    for path in paths[:10]:
        path.parent.mkdir(parents=True, exist_ok=True)
    if len(missing) < 100:
        for named in missing:
            write_image(named)
        return
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
