import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssl_runner.runtime.atomic_write import write_atomically

WRITES = {
    "safetensors": lambda path: save_file({"a": torch.zeros(2)}, path),
    "torch": lambda path: torch.save({"a": torch.zeros(2)}, path),
    "text": lambda path: path.write_text("a"),
}


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("hidden", [0o022, 0o002, 0o077])
def test_who_may_read_a_file_is_said_by_the_umask(tmp_path, write, hidden):
    with umask(hidden):
        (tmp_path / "plain").touch()
        for _ in range(2):  # new, and in the place of an old one
            write_atomically(tmp_path / "file", write)
            assert mode(tmp_path / "file") == mode(tmp_path / "plain") == 0o666 & ~hidden
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "file"}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_missing_folder_is_told_by_the_name_of_the_file(tmp_path, write):
    with pytest.raises(FileNotFoundError) as missing:
        write_atomically(tmp_path / "gone" / "file", write)
    assert missing.value.filename == str(tmp_path / "gone" / "file")


def test_an_error_in_writing_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "file").write_text("old")

    def write(path: Path) -> None:
        path.write_text("half")
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        write_atomically(tmp_path / "file", write)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
