"""Runs of version 0.1, whose configs name modules and keys that were renamed since."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ssl_runner import train
from ssl_runner.cli import command_line
from ssl_runner.cli.app import App
from ssl_runner.config.hashing import config_hash
from ssl_runner.config.renamed import KEYS, TARGETS, current_words, with_current_names
from ssl_runner.config.schema import check
from ssl_runner.config.stored import read_config
from ssl_runner.config.targets import locate
from ssl_runner.models.saving import load_encoder
from ssl_runner.wiring.loading import load_algorithm

OLD = Path(__file__).parent / "old_runs" / "0.1"


@pytest.fixture
def typed(monkeypatch):
    def typed(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["ssl-train", *words])
        return command_line.main(App(train.prepare, train.run, train.rehearse))

    return typed


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_an_interrupted_run_resumes_to_the_result_of_an_uninterrupted_one(tmp_path, typed, capfd):
    folder = shutil.copytree(OLD / "interrupted", tmp_path / "run")
    assert typed(f"resume={folder}") == 0
    resumed, whole = result(folder), result(OLD / "finished")
    assert resumed["status"] == "finished"
    assert resumed["config_hash"] == whole["config_hash"]
    assert "is now" not in capfd.readouterr().err  # a stored config needs no warning
    same = [resumed["versions"][name] == whole["versions"][name] for name in ("torch", "numpy", "scikit-learn")]
    if all(same) and resumed["hardware"]["cpu_capability"] == whole["hardware"]["cpu_capability"]:
        assert resumed["metrics"] == whole["metrics"]
        weights, before = (
            torch.load(path / "checkpoints" / "last.pt", weights_only=True)["algorithm"]
            for path in (folder, OLD / "finished")
        )
        # up to rounding: equal capabilities are not equal processors, and the stored run does not name its own
        for key in before:
            torch.testing.assert_close(weights[key], before[key], rtol=1e-5, atol=1e-6)


def test_a_finished_run_is_loaded_and_its_hash_is_the_same():
    config = check(read_config(OLD / "finished" / "config.yaml", "test"))
    assert config_hash(config) == result(OLD / "finished")["config_hash"]
    images = torch.rand(2, 1, 20, 20)
    assert torch.equal(load_encoder(OLD / "finished")(images), load_algorithm(OLD / "finished").eval_encoder()(images))


def test_every_old_name_maps_to_an_existing_one():
    for old, new in TARGETS.items():
        assert callable(locate(new))
        with pytest.raises(ValueError, match=r"."):
            locate(old)
    assert len(set(TARGETS.values())) == len(TARGETS)
    assert len(set(KEYS.values())) == len(KEYS)


def test_an_old_name_in_the_users_own_config_works_with_a_warning(tmp_path, typed):
    experiment = tmp_path / "own" / "experiment"
    experiment.mkdir(parents=True)
    old = yaml.safe_load((OLD / "finished" / "config.yaml").read_text())
    text = {"name": "mine", "trainer": {"_target_": old["trainer"]["_target_"]}}
    (experiment / "mine.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(text)}")
    with pytest.warns(FutureWarning, match="ssl_runner.trainer.Trainer is now ssl_runner.training.trainer.Trainer"):
        assert typed("--config-dir", str(tmp_path / "own"), "experiment=mine", "dry_run=true") == 0


def test_only_names_are_changed_at_any_depth():
    node = {"_target_": "ssl_runner.data.mnist.mnist", "root": "x"}
    config = {"dataset": {"_target_": "own.mixture", "parts": [node, {"a": 1}]}, "seed": 3}
    current, renamed = with_current_names(config)
    assert current["dataset"]["parts"] == [node | {"_target_": "ssl_runner.data.sources.mnist.mnist"}, {"a": 1}]
    assert current["seed"] == 3
    assert len(renamed) == 1
    assert current_words(["seed=3", "loss=nt_xent"]) == (["seed=3", "loss=nt_xent"], [])
