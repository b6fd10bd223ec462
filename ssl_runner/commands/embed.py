"""``ssl-embed``: embeddings of all images of a folder, and the nearest images of one."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_runner.commands.command import Parser, serve
from ssl_runner.errors import ConfigError, InvalidValue

DESCRIPTION = """\
Write the embeddings of all images below a folder, with names and labels, to Parquet or .npy.

Images are read, resized and normalised as in training. Labels are the names of the folders: FOLDER/CLASS/**, or
FOLDER/train/CLASS/**. Memory does not grow with the number of images. The file gets its name when it is complete.
"""
EXAMPLES = """\
examples:
  ssl-embed outputs/simclr_digits/RUN my/photos
  ssl-embed outputs/simclr_digits/RUN my/photos --output photos.npy        # and photos.csv with names and labels
  ssl-embed outputs/simclr_digits/RUN my/photos --neighbours my/cat.jpg    # and a picture of its nearest images

exit codes: 0 done, 1 done without images that cannot be read (each is named), or the disk cannot be written to,
2 a mistake, or no image can be read, 130 interrupted
"""


def main() -> int:
    """The console command."""
    return serve(_embed, "Free some space, or give another --output.")


def _parser() -> Parser:
    parser = Parser(prog="ssl-embed", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run, or an encoder.safetensors")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of images, read with all below it")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="NAME.parquet or NAME.npy (default: FOLDER's name.parquet, here)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is at the output")
    parser.add_argument("--batch-size", metavar="N", type=int, default=256, help="images at once (default: 256)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: auto)")
    parser.add_argument(
        "--invert", action="store_true", help="ink on paper, for an encoder that learned light strokes on dark"
    )
    parser.add_argument(
        "--neighbours", metavar="FILE", type=Path, help="also write OUTPUT's name_neighbours.png: FILE's nearest images"
    )
    parser.add_argument("--k", metavar="N", type=int, default=12, help="number of neighbours (default: 12)")
    return parser


def _embed(words: Sequence[str]) -> int:
    asked = _parser().read(words)
    for flag, value in (("--batch-size", asked.batch_size), ("--k", asked.k)):
        if value < 1:
            raise ConfigError([f"{flag} {value}: expected at least 1"])
    # these import torch, which help does not need
    from ssl_runner.export import embedding, embedding_files
    from ssl_runner.export.exporting import refuse_existing
    from ssl_runner.export.source import trained

    folder = asked.folder.expanduser().absolute()
    output = (asked.output or Path(f"{folder.name or 'embeddings'}.parquet")).expanduser().absolute()
    image = output.with_name(f"{output.stem}_neighbours.png")
    for path in [*embedding_files.files_of(output), *([image] if asked.neighbours else [])]:
        refuse_existing(path, asked.overwrite)
    device = _device(asked.device)
    source = trained(asked.run, str(device))
    images = embedding.images_below(folder)
    nearest = _nearest(asked, source.encoder, folder, device)
    batches = embedding.embed(source.encoder, images, asked.batch_size, device, asked.invert)
    metadata = {"encoder": str(source.file), "config_hash": str(source.result.get("config_hash", ""))}
    damaged, n, begin = list(images.broken), 0, time.perf_counter()
    with (
        embedding_files.written(output, source.encoder.out_features, metadata) as writer,
        _progress(len(images.files)) as advance,
    ):
        for why in damaged:
            advance(0, [why])
        for batch in batches:
            writer.add(batch)
            if nearest is not None:
                nearest.add(batch)
            damaged += batch.damaged
            n += len(batch.names)
            advance(batch.seen, batch.damaged)
        if n == 0:
            raise InvalidValue(f"none of the {len(damaged):,} images below {folder} can be read; nothing was written")
    rate = n / (time.perf_counter() - begin)
    print(f"{output}: {n:,} images, {source.encoder.out_features} features, {rate:,.0f} images/s")
    if nearest is not None:
        _draw(asked, folder, nearest, image)
    if damaged:
        print(f"{len(damaged):,} images cannot be read and were left out", file=sys.stderr)
    return 1 if damaged else 0


def _device(name: str) -> Any:
    from ssl_runner.runtime.device import choose_device

    try:
        return choose_device(name)
    except InvalidValue as error:
        raise InvalidValue(str(error).replace("trainer.device=auto", "--device auto")) from None


def _nearest(asked: Any, encoder: Any, folder: Path, device: Any) -> Any:
    """The collector of neighbours, or None if none are asked for."""
    if asked.neighbours is None:
        return None
    from ssl_runner.export.embedding import embed_file
    from ssl_runner.export.neighbours import Nearest, name_in

    file = asked.neighbours.expanduser().absolute()
    return Nearest(embed_file(encoder, file, device, asked.invert), asked.k, name_in(folder, file))


def _draw(asked: Any, folder: Path, nearest: Any, path: Path) -> None:
    from ssl_runner.export.neighbours import picture
    from ssl_runner.runtime.atomic_write import write_atomically

    drawn = picture(asked.neighbours.expanduser().absolute(), folder, nearest)
    write_atomically(path, lambda temporary: drawn.save(temporary, "PNG"))
    print(f"{path}: the nearest images, with 1 - cosine")
    for distance, name, label in nearest.found:
        print(f"  {distance:.4f}  {name}{f'  ({label})' if label else ''}")


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A progress bar on stderr with images/s; above it, each image that cannot be read. Yields what advances it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ssl_runner.runtime.console import Console

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task, done, begin = bar.add_task("", total=total, rate=""), 0, time.perf_counter()

        def advance(n: int, damaged: Sequence[tuple[str, str]]) -> None:
            nonlocal done
            done += n
            for name, reason in damaged:
                console.warn(f"{name} cannot be read ({reason})")
            rate = done / max(time.perf_counter() - begin, 1e-9)
            bar.update(task, advance=n, rate=f"{rate:,.0f} images/s")

        yield advance


if __name__ == "__main__":
    sys.exit(main())
