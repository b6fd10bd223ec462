"""Runs that begin from the weights of other runs, in one report."""

import made_runs
import pytest

from ssl_runner.comparison.build import build
from ssl_runner.config.hashing import config_hash, setting_hash
from ssl_runner.errors import ConfigError

SCORE = {"knn/top1": 0.5}


def second_stage(folder, seed, weights, origin, values=None, name="first"):
    """A run from weights with this fingerprint, of a run of this setting."""
    init = {"run": {"name": name, "config_hash": "0" * 16, "seed": seed, "setting": origin}}
    found = {"init.fingerprint": weights, **(values or {})}
    return made_runs.make(folder / f"{weights}_{seed}", {"knn/top1": 0.5 + seed / 100}, seed, found, init=init)


def settings_and_seeds(report):
    return [(row.setting, [run.seed for run in row.runs]) for row in report.rows]


def test_seeds_whose_weights_are_seeds_of_one_recipe_are_one_row(tmp_path):
    for seed in range(3):
        second_stage(tmp_path, seed, f"weights{seed}", "aaaaaaaaaaaaaaaa")
    report = build([tmp_path])
    assert settings_and_seeds(report) == [({}, [0, 1, 2])]
    assert report.rows[0].figures[0].values == [0.5, 0.51, 0.52]


def test_the_row_names_the_recipe_that_its_weights_are_from(tmp_path):
    for seed in range(2):
        second_stage(tmp_path, seed, f"a{seed}", "aaaaaaaaaaaaaaaa", name="simclr")
        second_stage(tmp_path, seed, f"b{seed}", "bbbbbbbbbbbbbbbb", name="byol")
        made_runs.make(tmp_path / str(seed), SCORE, seed, {"init.fingerprint": None})
    report = build([tmp_path], baseline="init=simclr")
    assert settings_and_seeds(report) == [({"init": name}, [0, 1]) for name in (None, "byol", "simclr")]
    assert report.baseline == 2


def test_recipes_of_one_name_are_told_apart_by_their_hash(tmp_path):
    for seed in range(2):
        second_stage(tmp_path, seed, f"a{seed}", "aaaaaaaaaaaaaaaa")
        second_stage(tmp_path, seed, f"b{seed}", "bbbbbbbbbbbbbbbb")
    assert [row.setting["init"] for row in build([tmp_path]).rows] == ["first aaaaaa", "first bbbbbb"]


def test_several_seeds_from_each_of_several_runs_stay_settings_of_their_own(tmp_path):
    """Joined, they would be two repetitions instead of four figures."""
    for weights in ("a", "b"):
        for seed in range(2):
            second_stage(tmp_path, seed, weights, "aaaaaaaaaaaaaaaa")
    assert settings_and_seeds(build([tmp_path])) == [({"init": "a"}, [0, 1]), ({"init": "b"}, [0, 1])]


def test_other_values_are_other_settings(tmp_path):
    for seed in range(2):
        for rate in (0.1, 0.2):
            second_stage(tmp_path, seed, f"a{seed}{rate}", "aaaaaaaaaaaaaaaa", {"optimizer.lr": rate})
    assert settings_and_seeds(build([tmp_path])) == [({"optimizer.lr": rate}, [0, 1]) for rate in (0.1, 0.2)]


@pytest.mark.parametrize("there", [True, False])
def test_runs_that_do_not_say_the_setting_are_joined_where_the_first_stage_is_there(tmp_path, there):
    name = "pre-training"
    for seed in range(2):
        first = {"optimizer.lr": 0.5, "name": name, "init.fingerprint": None}
        if there:
            made_runs.make(tmp_path / f"first{seed}", SCORE, seed, first)
        origin = config_hash(made_runs.changed(made_runs.CONFIG, first | {"seed": seed}))
        init = {"run": {"name": name, "config_hash": origin, "seed": seed}}
        made_runs.make(tmp_path / f"second{seed}", SCORE, seed, {"init.fingerprint": f"w{seed}"}, init=init)
    assert [len(row.runs) for row in build([tmp_path]).rows] == ([2, 2] if there else [1, 1])


def test_weights_of_files_are_told_apart_by_their_fingerprint(tmp_path):
    made_runs.make(tmp_path / "a", SCORE, 0, {"init.fingerprint": "a"})
    made_runs.make(tmp_path / "b", SCORE, 0, {"init.fingerprint": "b"})
    with pytest.raises(ConfigError, match="init="):
        build([tmp_path], baseline="init=c")
    assert [row.setting for row in build([tmp_path]).rows] == [{"init": "a"}, {"init": "b"}]


def test_a_setting_is_the_same_for_all_seeds_and_weights_but_not_for_other_origins():
    configs = [{"a": 1, "seed": seed, "init": {"fingerprint": f"w{seed}"}} for seed in range(2)]
    assert len({setting_hash(config, "x") for config in configs}) == 1
    assert setting_hash(configs[0], "x") != setting_hash(configs[0], "y")
    assert setting_hash(configs[0]) != setting_hash(configs[1])
    assert len({setting_hash({"a": 1, "seed": seed}) for seed in range(2)}) == 1
    assert setting_hash({"a": 1}) != setting_hash({"a": 2})
