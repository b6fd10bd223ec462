"""Classifiers on the command line: short to choose, with values of their own, and outside the hash unless chosen."""

import copy

import pytest

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.building import build
from ssl_runner.config.hashing import config_difference, config_hash
from ssl_runner.errors import ConfigError
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.runtime.no_download import no_download

NAMES = ["centroid", "simple_shot", "logistic", "ridge", "fine_tuning", "tim", "tim_adm", "pt_map", "in_context"]
COMPOSER = Composer(conf_folder())


def settled(*words: str) -> dict:
    return validate.checked_config(COMPOSER, list(words))[0]


@pytest.mark.parametrize("evaluator", ["few_shot", "few_shot_cifar10", "few_shot_omniglot"])
def test_every_evaluator_of_episodes_has_all_of_them_with_the_same_values(evaluator):
    node = settled(f"eval=[{evaluator}]")["eval"][evaluator]
    assert node["classifier"] is None
    assert list(node["classifiers"]) == NAMES
    assert node["classifiers"] == settled()["eval"]["few_shot"]["classifiers"]


@pytest.mark.parametrize("name", NAMES)
def test_one_is_chosen_by_its_name(name):
    with no_download():
        evaluator = build(settled(f"eval.few_shot.classifier={name}")["eval"]["few_shot"], "eval.few_shot")
    assert isinstance(evaluator, FewShot)
    assert evaluator.chosen.names == [name]
    assert evaluator.chosen.classifiers[name].recipe()


def test_several_are_chosen_as_a_list_and_values_are_set_beside_them():
    config = settled("eval.few_shot.classifier=[centroid,tim]", "eval.few_shot.classifiers.tim.steps=7")
    evaluator = build(config["eval"]["few_shot"], "eval.few_shot")
    assert evaluator.chosen.names == ["centroid", "tim"]
    assert evaluator.chosen.classifiers["tim"].steps == 7


def test_another_option_may_stand_in_the_place_of_one():
    config = settled("eval/classifier@eval.few_shot.classifiers.tim=tim_adm", "eval.few_shot.classifier=tim")
    assert config["eval"]["few_shot"]["classifiers"]["tim"]["steps"] == 150


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("eval.few_shot.classifiers.tim.step=3", "did you mean 'eval.few_shot.classifiers.tim.steps'?"),
        ("eval.few_shot.classifer=tim", "did you mean 'eval.few_shot.classifier'?"),
        ("eval.few_shot.classifier=5", "eval.few_shot.classifier: got 5 (int), expected str or"),
        ("eval.few_shot.classifiers.tim.steps=many", "eval.few_shot.classifiers.tim.steps: got 'many' (str)"),
    ],
)
def test_a_typo_has_the_nearest_name(word, message):
    with pytest.raises(ConfigError) as caught:
        settled(word)
    assert message in str(caught.value)


def test_a_value_out_of_range_is_reported_with_its_key():
    node = settled("eval.few_shot.classifiers.tim.lr=-1")["eval"]["few_shot"]
    with pytest.raises(ConfigError, match=r"^eval\.few_shot\.classifiers\.tim: lr=-1; give a number above 0"):
        build(node, "eval.few_shot")


def test_runs_that_chose_none_have_the_hash_of_runs_that_could_not():
    config = settled("eval=[knn,few_shot]")
    old = copy.deepcopy(config)
    for key in ("classifier", "classifiers"):
        del old["eval"]["few_shot"][key]
    assert config_hash(config) == config_hash(old)
    assert config_hash(settled("eval=[knn,few_shot]", "eval.few_shot.classifiers.tim.steps=3")) == config_hash(old)


def test_the_values_of_a_chosen_one_are_part_of_the_hash_and_no_others():
    chosen = "eval.few_shot.classifier=[centroid,tim]"
    config = settled(chosen)
    assert config_hash(config) != config_hash(settled())
    assert config_hash(settled(chosen, "eval.few_shot.classifiers.tim_adm.steps=3")) == config_hash(config)
    changed = settled(chosen, "eval.few_shot.classifiers.tim.steps=3")
    assert config_difference(config, changed) == ["eval.few_shot.classifiers.tim.steps: 1000 -> 3"]
