"""A sweep from the command line: written down, each job a process, and the same command runs only what is missing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import children
import pytest
from run_folders import TINY

from ssl_runner.sweeps import manifest
from ssl_runner.sweeps.sweep import read_job

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def typed(tmp_path):
    """Runs ``ssl-train WORDS``; its jobs are forked from the tests' own server, which has torch already."""
    return lambda *words: children.command(tmp_path / "logs", words)


def results(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}


def test_jobs_run_apart_are_skipped_when_done_and_a_bad_one_ends_alone(typed, tmp_path):
    words = ["-m", *TINY, "optimizer.lr=0.001,1e30", "seed=1,2", "hydra.launcher.jobs=2"]
    first = typed(*words)
    assert first.code == 1, first.err
    (folder,) = (tmp_path / "outputs" / "simclr_digits").iterdir()
    names = [f"lr={lr},seed={seed}" for lr in ("0.001", "1e+30") for seed in (1, 2)]
    assert [job.name for job in manifest.read(folder).jobs] == names
    found = results(folder)
    assert {name: one["status"] for name, one in found.items()} == {
        "lr=0.001,seed=1": "finished",
        "lr=0.001,seed=2": "finished",
        "lr=1e+30,seed=1": "failed",
        "lr=1e+30,seed=2": "failed",
    }
    assert "failed  lr=1e+30,seed=1: the" in first.out
    assert "2 finished, 2 failed of 4 jobs" in first.out
    assert [path.name for path in (folder / "Mean_over_seeds").iterdir()] == ["lr=0.001,seeds=2"]
    assert read_job(folder / names[0])["columns"] == ["optimizer.lr", "seed"]
    written = (folder / "lr=0.001,seed=1" / "result.json").stat().st_mtime_ns
    again = typed("-m", *TINY, "optimizer.lr=0.001", "seed=1,2,3")
    assert again.code == 0, again.err
    assert "3 jobs" in again.out and "2 done, 1 to run" in again.out
    assert (folder / "lr=0.001,seed=1" / "result.json").stat().st_mtime_ns == written
    (other,) = (path for path in folder.parent.iterdir() if path != folder)
    assert list(results(other)) == ["seed=3"]


def test_a_killed_sweep_goes_on_to_what_it_would_have_been(typed, tmp_path, monkeypatch):
    words = ["-m", *TINY, "seed=1,2", "hydra.launcher.jobs=1", "hydra.launcher.threads=1"]
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "whole"))
    whole = typed(*words)
    assert whole.code == 0, whole.err
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    command = [sys.executable, "-m", "ssl_runner.train", *words]
    started = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    folder = tmp_path / "outputs" / "simclr_digits"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*/seed=1/checkpoints/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    again = typed(*words)
    assert again.code == 0, again.err
    (one,), (other,) = folder.iterdir(), (tmp_path / "whole" / "simclr_digits").iterdir()
    metrics = {name: result["metrics"] for name, result in results(one).items()}
    assert metrics == {name: result["metrics"] for name, result in results(other).items()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.launcher.jobs=0"], "hydra.launcher.jobs=0; it must be at least 1"),
        (["hydra.launcher.gpus_per_job=64"], "hydra.launcher.gpus_per_job=64, but this machine has"),
        (["hydra.launcher.jbos=2"], "hydra.launcher.jbos: there is no such key; did you mean 'hydra.launcher.jobs'?"),
    ],
)
def test_a_launcher_that_cannot_be_is_refused_before_anything_is_written(words, message, typed, tmp_path):
    done = typed("-m", *TINY, "seed=1,2", *words)
    assert done.code == 2, done.out + done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "outputs").exists()
