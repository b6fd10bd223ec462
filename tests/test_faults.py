"""Faults, one test per row of docs/results/faults.md: the message, no loss of saved files, and resuming."""

import contextlib
import errno
import functools
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import children
import deeds
import pytest
import torch
import waiting
from children import until
from PIL import Image
from run_folders import CONTRASTIVE, MAML, PAIRWISE, PROTONET, VIEWS, assert_as_unbroken, checkpoint, rows, settled
from safetensors.torch import save_file

from ssl_runner.evaluation.diagnostics import COLLAPSED
from ssl_runner.runtime.atomic_write import write_atomically


@pytest.fixture(scope="module", autouse=True)
def trusted(session_environment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_RUNNER_TRUSTED", "doubles,waiting")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """The folder of an uninterrupted contrastive run."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    ended = children.run(settled(CONTRASTIVE), folder)
    assert ended.code == 0, ended.err
    return folder


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A small separate disk in memory."""
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(line, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def assert_ended(ended: children.Ended, code: int, *words: str) -> None:
    """It ended with this exit code and one message, without a traceback."""
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.out + ended.err, ended.err
    said = [line for line in ended.err.splitlines() if line.strip() and ": dropped " not in line]
    assert len(said) == 1, ended.err
    for word in words:
        assert word in said[0]


@pytest.mark.parametrize(("deed", "step"), [(deeds.disk_fills_up_in_checkpoint, 4), (deeds.disk_fills_up, 3)])
def test_a_full_disk_ends_a_run_and_its_checkpoints_stay_intact(deed, step, unbroken, tmp_path):
    with small_disk(tmp_path / "disk", 8) as disk:
        folder = disk / "run"
        arguments = [*CONTRASTIVE, f"hydra.run.dir={folder}"]
        assert_ended(
            children.command(tmp_path / "1", arguments, functools.partial(deed, step, disk)),
            1,
            "cannot write",
            "No space left on device",
            f"Files saved earlier are intact: free some space, then resume with: ssl-train resume={folder}",
        )
        assert checkpoint(folder)["step"] == 2
        (disk / "ballast").unlink()
        again = children.command(tmp_path / "2", [f"resume={folder}"])
        assert again.code == 0, again.err
        assert_as_unbroken(folder, unbroken)


def test_a_full_disk_before_the_first_checkpoint_says_to_start_again(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        (disk / "ballast").write_bytes(bytes(960 * 2**10))
        ended = children.command(tmp_path / "1", [*CONTRASTIVE, f"hydra.run.dir={disk / 'run'}"])
        assert_ended(ended, 1, "cannot write", "No space left on device", "free some space, then start again")


def test_a_full_disk_is_the_same_error_if_safetensors_wraps_it(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        with pytest.raises(OSError, match="No space left on device") as full:
            write_atomically(disk / "large", lambda path: save_file({"large": torch.zeros(2**20)}, path))
        assert full.value.errno == errno.ENOSPC
        assert list(disk.iterdir()) == []


def test_an_output_folder_that_cannot_be_written_is_reported_before_training(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        ended = children.command(tmp_path / "1", [*VIEWS, f"hydra.run.dir={disk / 'run'}"])
        assert_ended(ended, 1, str(disk / "run"), "Read-only file system", "hydra.run.dir")


def test_an_output_folder_under_a_file_is_reported_before_training(tmp_path):
    (tmp_path / "file").write_text("kept")
    for place in ("file", "file/run"):
        ended = children.command(tmp_path / "1", [*VIEWS, f"hydra.run.dir={tmp_path / place}"])
        assert_ended(ended, 1, str(tmp_path / "file"), "hydra.run.dir")
    assert (tmp_path / "file").read_text() == "kept"


def pictures(root: Path) -> list[str]:
    """Write sixty images in three classes; returns the overrides that train on them."""
    for number in range(60):
        path = root / str(number % 3) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 4 * number).save(path)
    without = [item for item in VIEWS if "few_shot" not in item and "baselines" not in item]
    dataset = ["dataset=image_folder", f"dataset.root={root}", "dataset.size=8", "dataset.channels=1"]
    return [*without, *dataset, "eval=[knn]", "eval.knn.k=3", "baselines=[]"]


def test_a_damaged_image_is_named_before_training(tmp_path):
    overrides = pictures(tmp_path / "data")
    damaged = tmp_path / "data" / "1" / "4.png"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    ended = children.command(tmp_path / "1", [*overrides, f"hydra.run.dir={tmp_path / 'run'}"])
    assert_ended(ended, 2, str(damaged), "cannot be decoded", "replace or delete it")
    assert not (tmp_path / "run").exists()


def test_a_dataset_deleted_during_a_run_is_missed_only_on_resuming(tmp_path):
    data, kept, folder = tmp_path / "data", tmp_path / "kept", tmp_path / "cut"
    overrides = pictures(data)
    shutil.copytree(data, kept)  # with the modification times
    vanishing = functools.partial(deeds.folder_vanishes, data)
    whole = children.command(tmp_path / "1", [*overrides, f"hydra.run.dir={tmp_path / 'whole'}"], vanishing)
    assert whole.code == 0, whole.err
    assert not data.exists()
    shutil.copytree(kept, data)
    died = children.command(
        tmp_path / "2", [*overrides, f"hydra.run.dir={folder}"], deeds.killed_while_a_line_is_written
    )
    assert died.code == -signal.SIGKILL
    shutil.rmtree(data)
    before = (folder / "checkpoints" / "last.pt").read_bytes()
    assert_ended(children.command(tmp_path / "3", [f"resume={folder}"]), 2, str(data))
    assert (folder / "checkpoints" / "last.pt").read_bytes() == before
    shutil.copytree(kept, data)
    again = children.command(tmp_path / "4", [f"resume={folder}"])
    assert again.code == 0, again.err
    assert rows(folder) == rows(tmp_path / "whole")


def test_a_second_process_in_a_folder_is_refused_and_the_first_continues(unbroken, tmp_path, monkeypatch):
    folder, file = tmp_path / "run", tmp_path / "waiting"
    overrides = [*CONTRASTIVE, "loss._target_=waiting.WaitingNTXent", f"hydra.run.dir={folder}"]
    with monkeypatch.context() as patch:
        patch.setenv(waiting.FILE, str(file))
        first = children.Child(tmp_path / "1", children.type_in, overrides)
    until(lambda: file.exists() or not first.process.is_alive())
    for arguments in (overrides, [*overrides, "resume=auto"], [f"resume={folder}"]):
        assert_ended(children.command(tmp_path / "2", arguments), 1, f"{folder} is in use by another process")
    assert not (folder / "failure.txt").exists()
    file.unlink()
    ended = first.ended()
    assert ended.code == 0, ended.err
    assert_as_unbroken(folder, unbroken)


@pytest.mark.parametrize(
    ("cadence", "words"),
    [
        (["trainer.checkpoint_every=100", "trainer.diagnostics_every=null"], "the loss is nan at step 2"),
        (["trainer.checkpoint_every=1"], "the norm of the weights is inf at step 1"),
    ],
    ids=["seen in the loss", "seen before a checkpoint"],
)
def test_a_run_that_diverges_stops_with_the_step_and_the_likely_cause(cadence, words, tmp_path):
    overrides = [*VIEWS, "optimizer=sgd", "optimizer.lr=1e20", *cadence, f"hydra.run.dir={tmp_path / 'run'}"]
    ended = children.command(tmp_path / "1", overrides)
    assert_ended(ended, 1, words, "learning rate that is too high", "lower optimizer.lr", "There was no checkpoint yet")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("log_every", [1, 100])
def test_weights_that_are_not_finite_are_never_saved(log_every, tmp_path):
    folder = tmp_path / "run"
    overrides = [*VIEWS, f"trainer.log_every={log_every}", f"hydra.run.dir={folder}"]
    ended = children.command(tmp_path / "1", overrides, functools.partial(deeds.weights_are_lost, 3))
    assert_ended(ended, 1, "norm of the weights is nan at step 4", str(folder / "checkpoints"))
    assert checkpoint(folder)["step"] == 2
    assert_finite(folder)


def assert_finite(folder: Path) -> None:
    for name, value in checkpoint(folder)["algorithm"].items():
        assert torch.isfinite(value).all(), name


WIDE = ["model.encoder.width=64", "trainer.diagnostics_every=null", "trainer.max_steps=2"]
# a small step, with diagnostics and an evaluation that need more memory
LARGE = ["dataset.size=32", "batching.batch_size=4", "trainer.keep_pages=false"]


@pytest.mark.parametrize(
    ("overrides", "step", "remedy"),
    [
        ([*VIEWS, *WIDE, "batching.batch_size=1024"], 0, "algorithm.encode_chunks=2, or lower batching.batch_size"),
        ([*MAML, *WIDE, "batching.tasks_per_batch=64"], 0, "trainer.accumulate_grad_batches=2"),
        ([*VIEWS, *WIDE, *LARGE, "trainer.diagnostics_every=2"], 1, "trainer.diagnostics_every=null"),
        ([*VIEWS, *WIDE, *LARGE], None, "resume with: ssl-train resume="),
    ],
    ids=["views", "episodes", "diagnostics", "evaluation"],
)
def test_too_little_memory_is_reported_with_what_to_lower(overrides, step, remedy, tmp_path):
    folder = tmp_path / "run"
    short = functools.partial(deeds.memory_runs_short, step, 30 << 20)
    ended = children.command(tmp_path / "1", [*overrides, f"hydra.run.dir={folder}"], short)
    assert_ended(ended, 1, "out of memory", remedy)


COLLAPSING = [*VIEWS, "loss._target_=waiting.PullTogether", "~loss.temperature", "trainer.max_steps=40"]
COLLAPSING += ["trainer.diagnostics_every=5", "optimizer.lr=0.1"]


def test_a_collapse_warns_once(tmp_path):
    ended = children.command(tmp_path / "1", [*COLLAPSING, f"hydra.run.dir={tmp_path / 'run'}"])
    assert ended.code == 0, ended.err
    assert ended.err.count("the embedding has collapsed by step") == 1
    assert sum(row.get("train/diagnostics/embedding_std", 1) < COLLAPSED for row in rows(tmp_path / "run")) > 1


def test_a_collapse_stops_a_run_with_stop_on_collapse_after_a_checkpoint(tmp_path):
    folder = tmp_path / "run"
    ended = children.command(tmp_path / "1", [*COLLAPSING, "trainer.stop_on_collapse=true", f"hydra.run.dir={folder}"])
    assert_ended(ended, 1, "the embedding has collapsed by step", str(folder / "checkpoints"))
    last = rows(folder)[-1]
    assert last["train/diagnostics/embedding_std"] < COLLAPSED
    assert checkpoint(folder)["step"] == last["step"] < 40


@pytest.mark.parametrize("overrides", [VIEWS, PAIRWISE, PROTONET, MAML], ids=["simclr", "pairwise", "protonet", "maml"])
def test_a_healthy_run_does_not_count_as_collapsed(overrides, tmp_path):
    folder = tmp_path / "run"
    arguments = ["trainer.max_steps=40", "trainer.diagnostics_every=10", "trainer.stop_on_collapse=true", "eval=[]"]
    kept = [item for item in overrides if "few_shot" not in item]
    ended = children.command(tmp_path / "1", [*kept, *arguments, f"hydra.run.dir={folder}"])
    assert ended.code == 0, ended.err
    assert "collapsed" not in ended.err
    spreads = [
        row["train/diagnostics/embedding_std"] for row in rows(folder) if "train/diagnostics/embedding_std" in row
    ]
    assert min(spreads[1:]) > 2 * COLLAPSED  # step 0 is not checked for a collapse
