"""Writes an export, compares it with the original, and only then gives it its name."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ssl_runner.errors import InvalidValue
from ssl_runner.export import parity
from ssl_runner.export.formats import Format, format_for
from ssl_runner.export.source import Trained

TOLERANCE = 1e-4  # of the largest feature


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        path: The file or folder.
        title: The format's name.
        lines: Lines of Python that load it.
        preprocessing: What happens to images inside, and what the caller has to do.
        difference: To the original.
    """

    path: Path
    title: str
    lines: list[str]
    preprocessing: str
    difference: parity.Difference


def export(
    source: Trained, name: str, output: Path | None = None, overwrite: bool = False, tolerance: float = TOLERANCE
) -> Exported:
    """Export a trained encoder.

    Args:
        source: The encoder.
        name: Of the format: onnx, torch, timm, torchvision, huggingface.
        output: The file or folder to write; None for one beside the encoder.safetensors.
        overwrite: Whether to replace what is there.
        tolerance: Largest difference of a feature from the original's, as a fraction of the largest feature, or
            absolute if that is below 1.

    Raises:
        ValueError: The format is unknown or cannot hold the encoder, the output exists, or the export differs by more
            than the tolerance; nothing is left then.
    """
    kind = format_for(name, source)
    path = source.file.parent / kind.file if output is None else output.expanduser().absolute()
    refuse_suffix(path, kind)
    refuse_existing(path, overwrite)
    if path.is_dir() and (Path(kind.file).suffix or not (path / "model.safetensors").is_file()):
        raise InvalidValue(f"--output {path}: it is a folder that no export wrote; give another --output")
    if path.exists() and path.samefile(source.file):
        raise InvalidValue(f"--output {path}: it is the encoder itself; give another --output")
    with beside(path) as temporary:
        kind.write(source, temporary)
        found = parity.difference(source, kind.lines(source, temporary), kind.array, kind.rgb)
        allowed = tolerance * max(1.0, found.feature)
        if not found.largest <= allowed:
            raise InvalidValue(
                f"the export differs from the original by {found.largest:.2g} on {found.n} {found.images}, more than "
                f"{allowed:.2g}, and was removed; choose another format, or give a larger --tolerance"
            )
        _replace(temporary, path)
    return Exported(path, kind.title, kind.lines(source, path), kind.preprocessing(source), found)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises InvalidValue if the path cannot be written, or has something that would be lost."""
    if not path.parent.is_dir():
        raise InvalidValue(f"--output {path}: the folder {path.parent} does not exist; create it")
    if (path.exists() or path.is_symlink()) and not overwrite:
        raise InvalidValue(f"--output {path}: it exists; give --overwrite, or another --output")


def refuse_suffix(path: Path, kind: Format) -> None:
    """Raises InvalidValue if other programs would not recognise the format by this name."""
    expected = Path(kind.file).suffix
    if path.suffix != expected and expected:
        raise InvalidValue(
            f"--output {path}: expected a name that ends in {expected}; give {path.with_suffix(expected)}"
        )


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside it, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder) / path.name


def _replace(temporary: Path, path: Path) -> None:
    """Give the finished file or folder its name; a folder that was there is removed."""
    for file in [temporary] if temporary.is_file() else temporary.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if path.is_dir() and not path.is_symlink():
        path.rename(temporary.with_name(f"{path.name}.before"))  # deleted with the temporary folder
    temporary.replace(path)
