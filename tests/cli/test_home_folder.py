"""``~`` and relative paths, wherever a path is given."""

import os
from pathlib import Path

import pytest

from ssl_runner.cli.home_folder import settle_environment, with_homes
from ssl_runner.config.paths import with_absolute_paths
from ssl_runner.config.signatures import paths_of
from ssl_runner.data.sources.mnist import mnist


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a b")


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("dataset.root=~/images", r"dataset.root=/home/a\ b/images"),
        ("dataset.root=~", r"dataset.root=/home/a\ b"),
        ("dataset.root='~/images'", "dataset.root='/home/a b/images'"),
        ('+eval.knn.dataset.root="~/images"', '+eval.knn.dataset.root="/home/a b/images"'),
        ("dataset.root=~/a,~/b", r"dataset.root=/home/a\ b/a,/home/a\ b/b"),
        ("hydra.run.dir=~/runs", r"hydra.run.dir=/home/a\ b/runs"),
        ("name=a~b", "name=a~b"),
        ("name='~x'", "name='~x'"),
        ("dataset.root=/a/~/b", "dataset.root=/a/~/b"),
        ("~eval", "~eval"),
        ("dataset.root=~nobody_of_this_name/x", "dataset.root=~nobody_of_this_name/x"),
    ],
)
def test_a_tilde_that_no_shell_expanded_is_expanded(word, filled):
    assert with_homes([word]) == [filled]


@pytest.mark.parametrize("name", ["SSL_RUNNER_DATA", "SSL_RUNNER_OUTPUTS", "SSL_RUNNER_CACHE"])
def test_variables_may_begin_with_a_tilde_and_empty_ones_count_as_unset(monkeypatch, name):
    monkeypatch.setenv(name, "~/there")
    settle_environment()
    assert os.environ[name] == "/home/a b/there"
    for nothing in ("", "  "):
        monkeypatch.setenv(name, nothing)
        settle_environment()
        assert name not in os.environ


def test_paths_of_a_config_are_absolute_and_other_strings_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    node = {"_target_": "ssl_runner.data.sources.mnist.mnist", "root": "data", "split": "images"}
    config = {
        "name": "data",
        "dataset": {"_target_": "ssl_runner.data.sources.mixture.mixture", "datasets": {"a": node}},
    }
    made = with_absolute_paths(config)
    assert made["name"] == "data"
    assert made["dataset"]["datasets"]["a"] == node | {"root": str(tmp_path / "data")}
    assert with_absolute_paths({**node, "root": "~/data"})["root"] == "/home/a b/data"
    assert Path(config["dataset"]["datasets"]["a"]["root"]) == Path("data")  # not changed in place


def test_paths_are_the_parameters_annotated_as_paths():
    assert paths_of(mnist) == ["root"]
