"""Groups inside another's option, such as algorithm/target inside algorithm=masked, over an experiment."""

from pathlib import Path
from typing import Any

import pytest

from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.cli.validate import checked_config
from ssl_runner.errors import ConfigError

COMMON = "override /dataset: digits", "override /model/encoder: vit_tiny", "override /algorithm: masked"
IBOT = [
    *COMMON,
    "override /masking: block",
    "override /loss: patch_cross_entropy",
    "override /model/head: dino",
    "override /algorithm/target: prototypes",
    "override /algorithm/predictor: none",
    "override /loss@algorithm.image_loss: dino",
]
MAE = [
    *COMMON,
    "override /algorithm/target: frequencies",
    "override /masking: random",
    "override /loss: mse",
    "override /model/head: identity",
    "override /batching: labelled",
]
VALUES = {
    "ibot": "algorithm: {hidden: replaced, image_loss: {center_momentum: 0.5}}",
    "mae": "algorithm: {target: {share: 0.25}, predictor: {depth: 1}}\nmasking: {share: 0.6}",
}


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conf")
    (folder / "experiment").mkdir()
    for name, defaults in (("ibot", IBOT), ("mae", MAE)):
        lines = "".join(f"  - {line}\n" for line in defaults)
        text = f"# @package _global_\n# Mine.\ndefaults:\n{lines}\nname: {name}\n{VALUES[name]}\n"
        (folder / "experiment" / f"{name}.yaml").write_text(text)
    composer = Composer(conf_folder(), Path(folder))
    return lambda *words: checked_config(composer, list(words))


def target(node: Any) -> str | None:
    return node and node["_target_"].rpartition(".")[2]


def test_an_experiment_selects_them(composed):
    config, lines = composed("experiment=mae")
    algorithm = config["algorithm"]
    assert (target(algorithm["target"]), algorithm["target"]["share"]) == ("Frequencies", 0.25)
    assert (target(algorithm["predictor"]), algorithm["predictor"]["depth"]) == ("TransformerPredictor", 1)
    assert lines == [] and algorithm["image_loss"] is None
    algorithm = composed("experiment=ibot")[0]["algorithm"]
    assert (target(algorithm["target"]), algorithm["predictor"]) == ("Prototypes", None)
    assert (target(algorithm["image_loss"]), algorithm["image_loss"]["center_momentum"]) == ("DINO", 0.5)


@pytest.mark.parametrize(
    ("words", "dropped"),
    [
        (["algorithm/target=pixels"], {"algorithm.target.share"}),
        (["algorithm/target=features", "algorithm.target.layers=2"], {"algorithm.target.share"}),
        (["~algorithm/target"], {"algorithm.target.share"}),
        (["algorithm/predictor=linear"], {"algorithm.predictor.depth"}),
        (["algorithm/predictor=none"], {"algorithm.predictor.depth"}),
        (["masking=block"], {"masking.share"}),
        (["masking=none"], {"masking.share"}),
        (["algorithm/target=pixels", "masking=none"], {"algorithm.target.share", "masking.share"}),
        (["algorithm/target=frequencies"], set()),
        (["loss@algorithm.image_loss=dino"], set()),
    ],
)
def test_values_for_a_deselected_option_are_dropped_with_a_line_and_nothing_else_is(words, dropped, composed):
    (before, _), (config, lines) = composed("experiment=mae"), composed("experiment=mae", *words)
    assert {line.partition("dropped ")[2].partition("=")[0] for line in lines} == dropped
    changed = {
        word.lstrip("~").partition("=")[0].partition("@")[2] or word.lstrip("~").partition("=")[0] for word in words
    }
    changed = {key.replace("/", ".").removeprefix("algorithm.").partition(".")[0] for key in changed}
    for key, value in before["algorithm"].items():
        assert key in changed or config["algorithm"][key] == value
    for key, value in before.items():
        assert key == "algorithm" or key in changed or config[key] == value


def test_another_predictor_over_none_keeps_the_experiments_other_values(composed):
    config, lines = composed("experiment=ibot", "algorithm/target=pixels", "algorithm/predictor=linear", "loss=mse")
    algorithm = config["algorithm"]
    assert lines == []
    assert (target(algorithm["predictor"]), algorithm["hidden"]) == ("LinearPredictor", "replaced")
    assert algorithm["image_loss"]["center_momentum"] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algorithm/target=pixel"], "no option 'pixel' in group algorithm/target; did you mean 'pixels'?"),
        (["algorithm.target.shar=1"], "did you mean 'algorithm.target.share'?"),
        (["loss@algorithm.image_los=dino"], "did you mean 'loss@algorithm.image_loss'?"),
        (["algorithm.target=null"], "algorithm.target: got None (null), expected PatchTarget"),
        (
            ["algorithm=contrastive"],
            "experiment/mae selects an option of algorithm/target, which the chosen algorithm does not have; keep its",
        ),
    ],
)
def test_mistakes_are_answered_with_the_right_spelling(words, message, composed):
    with pytest.raises(ConfigError) as refused:
        composed("experiment=mae", *words)
    assert len(refused.value.problems) == 1 and message in refused.value.problems[0]


def test_a_line_away_from_the_default_experiment(composed):
    words = ["algorithm=masked", "loss=mse", "masking=random", "batching=labelled", "model/encoder=vit_tiny"]
    config, lines = composed(
        *words, "model/head=identity", "algorithm/target=pixels", "algorithm.target.normalised=true"
    )
    assert config["algorithm"]["target"]["normalised"] is True and lines == []
