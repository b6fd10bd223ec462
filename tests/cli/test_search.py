"""A search from the command line: a real one, killed and resumed; what it writes; and what it refuses."""

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

from ssl_runner import train
from ssl_runner.cli import command_line
from ssl_runner.cli.app import App
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.jobs import is_search, search_plan
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.errors import ConfigError
from ssl_runner.sweeps import manifest

pytest.importorskip("optuna")
ROOT = Path(__file__).parents[2]
SEARCH = ["hydra/sweeper=search", "hydra.sweeper.metric=knn/top1", "hydra.sweeper.startup_trials=1"]
SPACES = ["loss.temperature=tag(log,interval(0.05,1))", "optimizer=adam,sgd"]
TRIALS = "hydra.sweeper.trials"


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Runs ``ssl-train WORDS``; its jobs are forked from the tests' own server, which has torch already."""
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return lambda *words: children.command(tmp_path / "logs", words)


def results(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}


def test_a_search_is_killed_resumed_and_grown_and_its_best_trial_can_be_run(typed, tmp_path):
    words = ["-m", *TINY, *SEARCH, *SPACES, "hydra.launcher.jobs=1", "hydra.launcher.threads=1"]
    command = [sys.executable, "-m", "ssl_runner.train", *words, f"{TRIALS}=3"]
    started = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    outputs = tmp_path / "outputs" / "simclr_digits"
    deadline = time.monotonic() + 120
    while not list(outputs.glob("*/trial=001*/checkpoints/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    (folder,) = outputs.iterdir()
    before = [job.name for job in manifest.read(folder).jobs]
    first = (folder / before[0] / "result.json").stat().st_mtime_ns
    resumed = typed(*words, f"{TRIALS}=3")
    assert resumed.code == 0, resumed.out + resumed.err
    grown = typed(*words, f"{TRIALS}=4")
    assert grown.code == 0, grown.out + grown.err
    assert "4 complete of 4 trials" in grown.out
    assert list(outputs.iterdir()) == [folder]
    jobs = manifest.read(folder).jobs
    assert [job.name for job in jobs][: len(before)] == before and len(jobs) == 4
    assert (folder / before[0] / "result.json").stat().st_mtime_ns == first

    found = results(folder)
    rows = {job.name: (folder / job.name / "metrics.jsonl").read_text().splitlines() for job in jobs}
    figures = {
        name: [row["eval/validation/knn/top1"] for row in map(json.loads, lines) if "eval/validation/knn/top1" in row]
        for name, lines in rows.items()
    }
    assert all(len(values) == 1 for values in figures.values())
    best = max(jobs, key=lambda job: figures[job.name])
    assert f"knn/top1 {figures[best.name][0]:.4f} on validation images: {best.name}" in grown.out

    (line,) = (line for line in grown.out.splitlines() if line.startswith("run it: "))
    arguments = line.removeprefix("run it: ssl-train ").split()
    assert arguments == ["--config-dir", str(folder / "conf"), "experiment=best"]
    once_more = typed(*arguments)
    assert once_more.code == 0, once_more.err
    (run,) = (path for path in outputs.iterdir() if path != folder)
    again = json.loads((run / "result.json").read_text())
    assert again["config_hash"] == best.config_hash
    assert again["metrics"] == found[best.name]["metrics"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.sweeper.metric=knn/top"], "hydra.sweeper.metric=knn/top: validation has no such metric; did you mean"),
        (["hydra.sweeper.metric=test/knn/top1"], "test/knn/top1 is a figure of test images"),
        (["loss.temperture=interval(0.1,1)"], "loss.temperture: there is no such key; did you mean 'loss.temperature'"),
        (["hydra.sweeper.trails=3"], "hydra.sweeper.trails: there is no such key; did you mean 'hydra.sweeper.trials'"),
        (["loss.temperature=interval(-1,1)"], "loss: temperature=-1.0; it divides similarities, so give a number"),
        (["trainer.evaluate_every=7", "trainer.select=knn/top1"], "trainer.evaluate_every=7, but trials end after 6"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_written(words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(sys, "argv", ["ssl-train", "-m", *TINY, *SEARCH, SPACES[0], *words])
    assert command_line.main(App(train.prepare, train.run, train.rehearse)) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(conf_folder())


def test_spaces_are_written_in_hydras_words(composer):
    words = [*SPACES, "model.encoder.width=range(16,65,16)", "optimizer.lr=tag(int,log,interval(1.5,8.2))", "seed=3"]
    words += ["hydra.sweeper.params={loss.normalise:'choice(true,false)'}", "trainer.max_epochs=1,2,1"]
    plan = search_plan(composer, [*SEARCH, *words])
    assert {key: space.distribution().to_internal_repr(space.ends[0]) for key, space in plan.spaces.items()}.keys() == {
        "loss.normalise",
        "loss.temperature",
        "optimizer",
        "model.encoder.width",
        "optimizer.lr",
        "trainer.max_epochs",
    }
    assert plan.spaces["model.encoder.width"].points == [16, 32, 48, 64]
    assert plan.spaces["optimizer.lr"].ends == ["2", "8"]
    assert plan.spaces["trainer.max_epochs"].points == ["1", "2"]


def test_the_ends_of_each_space_are_checked_with_the_first_values_of_the_others(composer):
    plan = search_plan(composer, [*SEARCH, "loss.temperature=interval(0.1,1)", "optimizer=adam,sgd,lars", "seed=3"])
    assert [word.split("=")[1] for corner in plan.corners for word in corner if word.startswith("optimizer")] == [
        *("adam", "adam", "sgd", "lars")
    ]
    temperatures = [word.split("=")[1] for corner in plan.corners for word in corner if word.startswith("loss.")]
    assert temperatures == ["0.1", "1.0", "0.1", "0.1"]
    assert all("seed=3" in corner for corner in plan.corners)


def test_trials_are_validated_after_their_last_step_unless_the_command_says_when(composer):
    usual = search_plan(composer, [*SEARCH, *SPACES])
    assert usual.added == ["trainer.evaluate_every=last", "trainer.select=knn/top1"]
    assert "trials are validated after their last step" in usual.figures
    every = search_plan(composer, [*SEARCH, *SPACES, "trainer.evaluate_every=10"])
    assert every.added == ["trainer.select=knn/top1"] and every.figures == ""
    select = "trainer.select=linear_probe/top1"
    other = search_plan(composer, [*SEARCH, *SPACES, "trainer.evaluate_every=10", select])
    assert other.added == []
    assert select in other.corners[0] and other.corners[-1][-1] == "trainer.select=knn/top1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss.temperature=tag(lgo,interval(0.1,1))"], "has the tag 'lgo'; did you mean 'log'"),
        (["optimizer=tag(log,choice(adam,sgd))"], "tag log is for interval"),
        (["seed=range(3,3)"], "seed: seed=range(3,3) is empty"),
        (["optimizer.lr=tag(int,interval(0.1,0.2))"], "optimizer.lr: there is nothing between 1 and 0"),
        ([*SPACES, "hydra.sweeper.sampler=tpee"], "hydra.sweeper.sampler: got 'tpee'"),
        ([*SPACES, "hydra.sweeper.trials=0"], "hydra.sweeper.trials: got 0"),
        ([*SPACES, "hydra.sweeper.sampler=cmaes"], "cmaes needs two spaces of numbers"),
        ([*SPACES, "hydra.sweeper.sampler=grid"], "loss.temperature: a grid has no intervals"),
        ([*SPACES, "hydra.sweeper.direction=minimize", "trainer.evaluate_every=10"], "keeps the checkpoint with the"),
    ],
)
def test_wrong_settings_and_spaces_are_refused_with_the_key(words, message, composer):
    assert is_search(composer, [*SEARCH, *words], True)
    with pytest.raises(ConfigError) as raised:
        search_plan(composer, [*SEARCH, *words])
    assert message in str(raised.value)
    assert len(raised.value.problems) == 1
