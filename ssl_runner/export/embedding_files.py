"""Files of embeddings, written batch by batch and named when complete: Parquet, or .npy with a .csv of names."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from ssl_runner.errors import InvalidValue
from ssl_runner.export.embedding import Batch
from ssl_runner.export.exporting import beside

ROWS = 4096  # of a row group: readers load one at a time, and the writer holds one
SUFFIXES = (".parquet", ".npy")


class Writer(Protocol):
    """Receives batches."""

    def add(self, batch: Batch) -> None: ...


def files_of(output: Path) -> list[Path]:
    """Everything that is written for an output.

    Raises:
        ValueError: Its suffix names no format, or a package is missing.
    """
    if output.suffix not in SUFFIXES:
        raise InvalidValue(f"--output {output}: expected a name that ends in .parquet or .npy")
    if output.suffix == ".npy":
        return [output, output.with_suffix(".csv")]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InvalidValue(
            f"{output.name} needs pyarrow, an extra: pip install 'ssl-runner[embed]'; or give --output NAME.npy"
        ) from None
    return [output]


@contextmanager
def written(output: Path, width: int, metadata: dict[str, str]) -> Iterator[Writer]:
    """A writer whose files get their names at the end of the block, unless an error ends it.

    Args:
        output: NAME.parquet, or NAME.npy, to which NAME.csv belongs.
        width: Number of features.
        metadata: Stored in Parquet.
    """
    with beside(output) as temporary:
        if output.suffix == ".npy":
            with _Npy(temporary, width) as writer:
                yield writer
        else:
            with _Parquet(temporary, width, metadata) as writer:
                yield writer
        for name in reversed(files_of(output)):  # the names first: embeddings without names are of no use
            made = temporary.with_name(name.name)
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(name)


class _Parquet:
    """Columns name, label (null for images in no class folder) and embedding (a list of fixed size)."""

    def __init__(self, path: Path, width: int, metadata: dict[str, str]) -> None:
        import pyarrow
        from pyarrow import parquet

        self.arrow: Any = pyarrow
        kind = pyarrow.list_(pyarrow.float32(), width)
        columns = [("name", pyarrow.string()), ("label", pyarrow.string()), ("embedding", kind)]
        self.schema = pyarrow.schema(columns, metadata=metadata)
        self.file = parquet.ParquetWriter(path, self.schema)
        self.waiting: list[Batch] = []

    def __enter__(self) -> "_Parquet":
        return self

    def add(self, batch: Batch) -> None:
        self.waiting.append(batch)
        if sum(len(each.names) for each in self.waiting) >= ROWS:
            self._write()

    def _write(self) -> None:
        names = [name for batch in self.waiting for name in batch.names]
        labels = [label for batch in self.waiting for label in batch.labels]
        if names:
            values = np.concatenate([batch.embeddings for batch in self.waiting]).reshape(-1)
            kind = self.schema.field("embedding").type
            embeddings = self.arrow.FixedSizeListArray.from_arrays(self.arrow.array(values), type=kind)
            columns = [self.arrow.array(names), self.arrow.array(labels, self.arrow.string()), embeddings]
            self.file.write_table(self.arrow.Table.from_arrays(columns, schema=self.schema))
        self.waiting = []

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._write()
        self.file.close()


class _Npy:
    """An array float32 (N, D), and a table of names and labels in the same order.

    The number of rows is known only at the end; NumPy's header has room for it.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.width, self.rows = width, 0
        self.array: IO[bytes] = path.open("wb")
        self.table: IO[str] = path.with_suffix(".csv").open("w", newline="", encoding="utf-8")
        self.names = csv.writer(self.table)

    def __enter__(self) -> "_Npy":
        self.begin = self._header()
        self.names.writerow(["name", "label"])
        return self

    def add(self, batch: Batch) -> None:
        self.array.write(np.ascontiguousarray(batch.embeddings, dtype="<f4").tobytes())
        self.names.writerows((name, label or "") for name, label in zip(batch.names, batch.labels, strict=True))
        self.rows += len(batch.names)

    def _header(self) -> int:
        described = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
        np.lib.format.write_array_header_1_0(self.array, described)
        return self.array.tell()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self.array.seek(0)
                assert self._header() == self.begin, "NumPy's header has grown into the data"
        finally:
            self.array.close()
            self.table.close()
