"""Runs as a table for pandas and polars."""

import shutil

import made_runs
import pandas
import polars
import pytest

import ssl_runner
from ssl_runner.errors import ConfigError

SCORE = {"knn/top1": 0.9}


def test_read_runs_makes_a_table_for_pandas_and_polars(tmp_path):
    made_runs.sweep(tmp_path, {0.1: {0: 0.8, 1: 0.82}, 1: {0: 0.7}})
    made_runs.make(
        tmp_path / "other", {"few_shot/5w1s/top1": 0.5}, values={"optimizer.lr": "auto", "loss.extra": [1, 2]}
    )
    made_runs.make(tmp_path / "failed", {}, status="failed")
    table = ssl_runner.read_runs(tmp_path)
    assert [path.name for path, _ in table.left_out] == ["failed"]
    for frame in (pandas.DataFrame(table), pandas.DataFrame(table.to_dict())):
        assert frame.groupby("config.loss.temperature")["knn/top1"].mean()[0.1] == pytest.approx(0.81)
    for frame in (polars.DataFrame(table), polars.DataFrame(table.to_dict())):
        assert frame["config.loss.temperature"].to_list() == [0.5, 0.1, 0.1, 1.0]
        assert frame["knn/top1"].to_list() == [None, 0.8, 0.82, 0.7]
        assert frame["seed"].dtype == polars.Int64
    assert table[0]["config.loss.extra"] == "[1, 2]"


def test_read_runs_takes_several_paths_as_text(tmp_path):
    made_runs.make(tmp_path / "a", SCORE)
    made_runs.make(tmp_path / "b", SCORE, seed=1)
    assert [row["seed"] for row in ssl_runner.read_runs([str(tmp_path / "b"), tmp_path / "a"])] == [1, 0]
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(ConfigError, match="does not exist"):
        ssl_runner.read_runs(tmp_path / "a")
