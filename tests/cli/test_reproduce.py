"""Reproducing a run."""

import json
import sys

import pytest
import torch

from ssl_runner import train
from ssl_runner.cli import command_line
from ssl_runner.cli.app import App
from ssl_runner.cli.reproduce import compare, finished
from ssl_runner.errors import ConfigError

SMALL = [
    "model.encoder.width=4",
    "batching.batch_size=8",
    "trainer.max_epochs=null",
    "trainer.max_steps=2",
    "trainer.progress=false",
    "eval=[knn]",
    "baselines=[]",
]


def ssl_train(monkeypatch, *line) -> int:
    monkeypatch.setattr(sys, "argv", ["ssl-train", *line])
    return command_line.main(App(train.prepare, train.run, train.rehearse))


@pytest.fixture
def original(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SSL_RUNNER_OUTPUTS", raising=False)
    assert ssl_train(monkeypatch, *SMALL, "hydra.run.dir=original") == 0
    return tmp_path / "original"


def test_a_reproduced_run_is_identical_to_the_last_bit_and_has_its_own_folder(original, monkeypatch, capsys):
    assert ssl_train(monkeypatch, f"reproduce={original}") == 0
    assert "identical to the last bit" in capsys.readouterr().out
    (again,) = (original.parent / "outputs" / "simclr_digits").iterdir()
    before, after = (json.loads((folder / "result.json").read_text()) for folder in (original, again))
    assert before["metrics"] == after["metrics"]
    assert f"reproduce={original}" in after["command"]
    states = [torch.load(folder / "checkpoints" / "last.pt", weights_only=True) for folder in (original, again)]
    for name, value in states[0]["algorithm"].items():
        assert torch.equal(value, states[1]["algorithm"][name]), name


def test_a_different_outcome_is_shown_and_exits_with_1(original, monkeypatch, capsys):
    result = json.loads((original / "result.json").read_text())
    result["metrics"]["knn/top1"] -= 0.1
    result["versions"]["torch"] = "1.0"
    (original / "result.json").write_text(json.dumps(result))
    assert ssl_train(monkeypatch, f"reproduce={original}") == 1
    out = capsys.readouterr().out
    assert "NOT the same" in out
    assert "+0.100000" in out
    assert "version of torch: 1.0 -> " in out


def test_a_run_that_cannot_be_compared_is_refused_before_a_folder_is_created(original, monkeypatch, capsys):
    result = json.loads((original / "result.json").read_text()) | {"status": "running"}
    (original / "result.json").write_text(json.dumps(result))
    assert ssl_train(monkeypatch, f"reproduce={original}") == 2
    assert f"did not finish; resume with: ssl-train resume={original}" in capsys.readouterr().err
    (original / "result.json").unlink()
    with pytest.raises(ConfigError, match="nothing to compare"):
        finished(original)
    assert ssl_train(monkeypatch, "reproduce=nowhere") == 2
    assert ssl_train(monkeypatch, f"reproduce={original}", "optimizer.lr=1") == 2
    assert not (original.parent / "outputs").exists()


def test_half_a_point_is_the_same_and_a_missing_metric_is_not(tmp_path):
    def result(**metrics):
        return {"metrics": metrics, "dataset": {"fingerprint": "f"}}

    assert compare(tmp_path, result(a=0.5), result(a=0.504))[1]
    assert not compare(tmp_path, result(a=0.5), result(a=0.506))[1]
    assert not compare(tmp_path, result(a=0.5, b=0.1), result(a=0.5))[1]


def test_a_metric_that_is_new_is_reported_and_does_not_count_as_a_difference(tmp_path):
    before, after = (
        {"metrics": metrics, "dataset": {"fingerprint": "f"}} for metrics in ({"a": 0.5}, {"a": 0.5, "b": 0.1})
    )
    text, same = compare(tmp_path, before, after)
    assert same
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("b ")] == ["new"]


def test_a_rehearsal_takes_one_step_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ssl_train(monkeypatch, *SMALL, "dry_run=true") == 0
    out = capsys.readouterr().out
    assert "one step" in out
    assert "loss" in out
    assert list(tmp_path.iterdir()) == []
    assert ssl_train(monkeypatch, "-m", *SMALL, "seed=0,1", "dry_run=true") == 0
    assert capsys.readouterr().out.count("one step") == 2
    assert list(tmp_path.iterdir()) == []
