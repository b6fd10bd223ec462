"""Finding and reading run folders: what counts, and what is left out with its reason."""

import errno
import json
import os
from pathlib import Path

import made_runs
import pytest
import yaml

from ssl_runner.comparison.configs import Configs
from ssl_runner.comparison.reading import read
from ssl_runner.config.hashing import config_hash, flatten
from ssl_runner.errors import ConfigError
from ssl_runner.runtime.file_lock import locked

OLD = Path(__file__).parents[1] / "old_runs" / "0.1"
SCORE = {"knn/top1": 0.9}


def reasons(found):
    return {path.name: reason for path, reason in found.left_out}


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    made_runs.make(tmp_path / "a" / "b" / "run", SCORE)
    made_runs.make(tmp_path / "c", SCORE, seed=1)
    found = read([tmp_path, tmp_path / "a", tmp_path / "c"])
    assert [run.folder.name for run in found.runs] == ["run", "c"]
    assert found.left_out == []


def test_nothing_inside_a_run_folder_is_a_run(tmp_path):
    run = made_runs.make(tmp_path / "run", SCORE)
    made_runs.make(run / "inside", SCORE, seed=1)
    made_runs.make(tmp_path / ".hidden", SCORE, seed=2)
    assert len(read([tmp_path]).runs) == 1


def test_links_are_not_followed_so_that_a_loop_ends(tmp_path):
    made_runs.make(tmp_path / "run", SCORE)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(read([tmp_path]).runs) == 1
    assert len(read([tmp_path / "loop"]).runs) == 1


def test_a_run_of_version_0_1_is_read_with_current_names():
    found = read([OLD])
    assert [run.folder.name for run in found.runs] == ["finished"]
    assert reasons(found) == {"interrupted": "interrupted after step 2"}
    config = found.runs[0].config
    assert config["trainer._target_"] == "ssl_runner.training.trainer.Trainer"
    assert "trainer.gradient_clip_norm" in config and "trainer.gradient_clip" not in config


def test_each_run_without_a_result_is_named_with_its_reason(tmp_path):
    made_runs.make(tmp_path / "good", SCORE)
    made_runs.make(tmp_path / "failed", {}, 1, status="failed", step=7, reason="loss is NaN")
    made_runs.make(tmp_path / "killed", {}, 2, status="running")
    made_runs.make(tmp_path / "running", {}, 3, status="running")
    made_runs.make(tmp_path / "half", SCORE, 4)
    text = (tmp_path / "half" / "result.json").read_text()
    (tmp_path / "half" / "result.json").write_text(text[: len(text) // 2])
    made_runs.make(tmp_path / "no_config", SCORE, 5)
    (tmp_path / "no_config" / "config.yaml").unlink()
    made_runs.make(tmp_path / "bad_config", SCORE, 6)
    (tmp_path / "bad_config" / "config.yaml").write_text("loss: [1, 2\nname: x\n")
    made_runs.make(tmp_path / "begun", SCORE, 7)
    (tmp_path / "begun" / "result.json").unlink()
    made_runs.make(tmp_path / "no_metrics", {}, 8)
    for name, content in (("list", "[]"), ("stranger", '{"accuracy": 1}'), ("bare", '{"status": "finished"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(content)
    with locked(tmp_path / "running" / ".lock"):
        found = read([tmp_path])
    assert [run.folder.name for run in found.runs] == ["good"]
    told = reasons(found)
    assert told["failed"] == "failed after step 7: loss is NaN"
    assert (told["killed"], told["running"]) == ("killed", "running")
    assert told["half"].startswith("result.json is damaged")
    assert told["no_config"] == "it has no config.yaml"
    assert told["bad_config"].startswith("config.yaml is damaged")
    assert told["begun"].startswith("it has no result.json")
    assert told["no_metrics"].startswith("it has no metrics")
    assert told["list"] == told["stranger"] == "result.json has no status: it is not the result of a run"
    assert "config.yaml" in told["bare"]
    assert len(told) == 11


def test_a_result_without_protocols_is_named(tmp_path):
    made_runs.make(tmp_path / "run", SCORE)
    content = json.loads((tmp_path / "run" / "result.json").read_text())
    del content["protocols"]
    (tmp_path / "run" / "result.json").write_text(json.dumps(content))
    assert "no protocols" in reasons(read([tmp_path]))["run"]


def test_a_folder_that_may_not_be_opened_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    listed = os.scandir

    def refuse(path):  # root may open everything, so no mode of the folder would do
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("os.scandir", refuse)
    assert reasons(read([tmp_path])) == {"closed": "cannot be opened: Permission denied"}


def test_a_path_without_runs_is_named_and_the_rest_goes_on(tmp_path):
    made_runs.make(tmp_path / "run", SCORE)
    (tmp_path / "empty").mkdir()
    found = read([tmp_path / "empty", tmp_path / "run"])
    assert len(found.runs) == 1
    assert reasons(found) == {"empty": "there is no run in it"}


def test_missing_paths_are_all_reported_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        read([tmp_path / "missing", tmp_path / "file"])
    assert ["does not exist" in caught.value.problems[0], "is a file" in caught.value.problems[1]] == [True, True]


def test_a_sweep_at_work_is_noticed(tmp_path):
    made_runs.make(tmp_path / "sweep" / "run", SCORE)
    (tmp_path / "sweep" / ".sweep.lock").touch()
    assert not read([tmp_path]).sweeping
    with locked(tmp_path / "sweep" / ".sweep.lock"):
        assert read([tmp_path]).sweeping


CONFIGS = {
    "plain": made_runs.CONFIG,
    "texts": {"a": "x: y", "b": "two\nlines\n\n  and more: 1\n", "c": "# none", "d": "a long text " * 20, "e": "- x"},
    "shared": {"first": (one := {"x": [1, 2]}), "second": one, "third": {"deep": one}},
    "lists": {"a": [1, {"b": 2}], "b": [], "c": {}, "d": [[1], [2]], "e": [{"f": 1}]},
    "keys": {"x-y": 1, "1": 2, "with space": 3, "z": None, "true": 1.5},
    "amps": {"a": "R&D *star* &x", "b": "100%", "c": "%x", "d": "---", "e": "..."},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_are_read_by_parts_are_those_of_a_yaml_parser(tmp_path, name):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIGS[name], sort_keys=False))
    configs = Configs()
    expected = flatten(yaml.safe_load(path.read_text()))
    assert configs.read(path) == expected
    assert configs.read(path) == expected


def test_a_config_keeps_its_hash(tmp_path):
    made_runs.make(tmp_path / "run", SCORE)
    config = Configs().read(tmp_path / "run" / "config.yaml")
    assert config_hash(config) == config_hash(made_runs.CONFIG)


def test_validation_figures_are_those_of_the_selected_step(tmp_path):
    select = {"trainer.select": "knn/top1"}
    run = made_runs.make(tmp_path / "run", SCORE, values=select)
    last = made_runs.make(tmp_path / "last", SCORE, seed=1)
    rows = [
        {"step": step, "eval/validation/knn/top1": value} for step, value in ((5, 0.7), (10, 0.8), (15, 0.8), (20, 0.6))
    ]
    text = "\n".join(json.dumps(row) for row in [*rows, {"step": 21, "train/loss": 1}]) + '\n{"step": 22, "eval/val'
    for folder in (run, last):
        (folder / "metrics.jsonl").write_text(text)
    found = {one.folder.name: one.metrics for one in read([tmp_path], validation=True).runs}
    assert found["run"]["validation/knn/top1"] == 0.8
    assert found["last"]["validation/knn/top1"] == 0.6
    assert "validation/knn/top1" not in read([tmp_path]).runs[0].metrics
