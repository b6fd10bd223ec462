"""A run continues without its console, and prints names literally."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import children
import deeds
import pytest
from PIL import Image
from run_folders import VIEWS

RUN = [*VIEWS, "baselines=[]", "trainer.progress=true"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def lost(folder: Path, name: str) -> list[str]:
    """Lines in the run's log that report a failed stream."""
    lines = (folder / "train.log").read_text().splitlines()
    return [line for line in lines if f"{name} cannot be written to" in line]


def assert_finished(folder: Path) -> None:
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("deed", "numbers"),
    [
        (deeds.nobody_reads, (1,)),
        (deeds.nobody_reads, (2,)),
        (deeds.console_is_full, (1, 2)),
        (deeds.console_is_full, (1,)),
        (deeds.terminal_goes_away, (1, 2)),
    ],
)
def test_a_run_continues_without_its_console_and_logs_that_once(deed, numbers, tmp_path):
    folder = tmp_path / "run"
    ended = children.command(tmp_path / "1", [*RUN, f"hydra.run.dir={folder}"], functools.partial(deed, *numbers))
    assert ended.code == 0, ended.err
    assert_finished(folder)
    assert "Traceback" not in ended.out + ended.err
    for number, name in ((1, "stdout"), (2, "stderr")):
        assert len(lost(folder, name)) == (number in numbers)


def fresh(*arguments: str, **settings) -> subprocess.CompletedProcess:
    """A process with its own interpreter, to test what happens when that starts and exits."""
    return subprocess.run([sys.executable, "-m", "ssl_runner.train", *arguments], text=True, timeout=300, **settings)


def test_an_interpreter_exits_silently_if_nobody_reads_its_pipe(tmp_path):
    for arguments in (["--help"], ["--version"], [*RUN, f"hydra.run.dir={tmp_path / 'run'}"]):
        reading, writing = os.pipe()
        os.close(reading)
        ended = fresh(*arguments, stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        assert ended.returncode == 0
        assert "BrokenPipeError" not in ended.stderr
    assert_finished(tmp_path / "run")


def test_a_failure_that_nobody_reads_keeps_its_exit_code(tmp_path):
    ended = children.command(tmp_path / "1", ["sead=1"], functools.partial(deeds.console_is_full, 1, 2))
    assert ended.code == 2


def test_with_closed_streams_nothing_printed_ends_up_in_the_runs_files(tmp_path):
    folder = tmp_path / "run"
    line = ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", sys.executable, "-m", "ssl_runner.train", *RUN]
    assert subprocess.run([*line, f"hydra.run.dir={folder}"], timeout=300, check=False).returncode == 0
    assert_finished(folder)
    assert len(lost(folder, "stdout")) == len(lost(folder, "stderr")) == 1
    for row in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(row)


def test_a_run_resumed_without_its_console_creates_its_log(tmp_path):
    folder = tmp_path / "run"
    deed = functools.partial(deeds.signalled_at_step, 2, 15)
    assert children.command(tmp_path / "1", [*RUN, f"hydra.run.dir={folder}"], deed).code == 130
    (folder / "train.log").unlink()
    again = children.command(tmp_path / "2", [f"resume={folder}"], functools.partial(deeds.nobody_reads, 1))
    assert again.code == 0, again.err
    assert len(lost(folder, "stdout")) == 1


def test_a_name_with_brackets_or_colons_is_printed_literally(tmp_path):
    root, folder = tmp_path / "im[b]ages :cat:", tmp_path / "a[b]c [/red] :cat:"
    for number in range(60):
        path = root / f"[{number % 3}]" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 4 * number).save(path)
    dataset = ["dataset=image_folder", f"dataset.root='{root}'", "dataset.size=8", "dataset.channels=1"]
    kept = [item for item in RUN if "few_shot" not in item]
    arguments = [*kept, *dataset, "eval=[knn]", "eval.knn.k=3", "name='a[b]c'", f"hydra.run.dir='{folder}'"]
    ended = children.command(tmp_path / "1", arguments, deeds.killed_while_a_line_is_written)
    assert ended.code == -9, ended.err
    assert f"  run folder  {folder}" in ended.out.splitlines()
    assert str(root.name) in ended.out
    (folder / "checkpoints" / "last.pt").write_bytes(b"")
    again = children.command(tmp_path / "2", [f"resume={folder}"])
    assert again.code == 0, again.err
    assert f"warning: {folder / 'checkpoints' / 'last.pt'} is damaged" in again.out
    last = again.out.splitlines()[-1]
    assert last == str(folder) and Path(last).is_dir()
    over = children.command(tmp_path / "3", [f"resume={folder}"])
    assert over.out.splitlines()[-1] == f"{folder} is already finished; there is nothing to resume"
