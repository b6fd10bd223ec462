"""Every file under conf/ composes and passes the check, and an experiment sets nothing that is already so."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from ssl_runner.cli import validate
from ssl_runner.cli.compose import EXPERIMENT, Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.hashing import flatten

CONF = conf_folder()
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.parent.name not in ("experiment", "suite")
)
MANDATORY = {
    "image_folder": ["dataset.root=."],
    "webdataset": ["dataset.shards=[train.tar]"],
    "torchvision": ["dataset.name=KMNIST"],
    "meta_album": ["dataset.name=BRD_Mini"],
    "timm": ["model.encoder.name=resnet10t"],
}


def settled(*overrides: str) -> dict:
    return validate.checked_config(Composer(CONF), list(overrides))[0]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_named_after_its_file(name):
    config = settled(f"experiment={name}")
    assert config["name"] == name
    first = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()[1]
    assert first.startswith("# "), "the help page shows the first comment"


def needless(name: str, folder: Path) -> list[str]:
    """What an experiment's own file could leave out. An interpolation counts as a value, whatever it resolves to.

    Args:
        name: Name of an experiment in conf/ or in the folder.
        folder: A folder for two temporary experiments: one without its values, and one also without its overrides.
    """
    composer = Composer(CONF, folder)
    content = composer.option(EXPERIMENT, name)
    defaults = content.pop("defaults", [])
    chosen = {key: entry[key] for entry in defaults for key in entry if str(key).startswith("override /")}
    others = [entry for entry in defaults if not chosen.keys() & set(entry)]
    write_experiment(folder, "without_values", {"defaults": defaults})
    write_experiment(folder, "without_overrides", {"defaults": others})

    anyway = composer.selection([f"{EXPERIMENT}=without_overrides"])
    found = [key for key, option in chosen.items() if anyway.options(key.removeprefix("override /")) == listed(option)]

    standing = flatten(OmegaConf.to_container(composer.compose([f"{EXPERIMENT}=without_values"])))
    return found + [key for key, value in flatten(content).items() if key in standing and standing[key] == value]


def listed(option: Any) -> list[Any]:
    return option if isinstance(option, list) else [option]


def write_experiment(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / EXPERIMENT).mkdir(exist_ok=True)
    (folder / EXPERIMENT / f"{name}.yaml").write_text(
        f"# @package _global_\n{yaml.safe_dump(content, sort_keys=False)}"
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_sets_nothing_that_is_already_so(name, tmp_path):
    assert not needless(name, tmp_path), "remove these; the composed config stays as it is"


def test_needless_values_and_options_of_an_experiment_are_found(tmp_path):
    defaults = [{"override /scheduler": "warmup_cosine"}, {"override /optimizer": "adam"}, {"override /eval": ["knn"]}]
    crop = {"scale": [0.3, 1.0], "ratio": [0.5, 2.0]}
    content = {
        "optimizer": {"lr": 0.001, "weight_decay": 0.1},
        "model": {"encoder": {"width": "${model.head.hidden_features}"}, "head": {"layers": 2, "out_features": 64}},
        "augmentation": {"transforms": {"crop": crop, "erasing": None, "flip": None}},
        "eval": {"knn": {"k": 200}},
    }
    write_experiment(tmp_path, "wordy", {"defaults": defaults, **content})
    assert needless("wordy", tmp_path) == [
        "override /scheduler",
        "optimizer.lr",
        "model.head.layers",
        "augmentation.transforms.crop.scale",
        "augmentation.transforms.erasing",
        "eval.knn.k",
    ]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group, option):
    if group == "eval/classifier":  # an option inside another's, at a place of its own
        selected = settled(f"eval/classifier@eval.few_shot.classifiers.tim={option}")
        content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
        assert selected["eval"]["few_shot"]["classifiers"]["tim"]["_target_"] == content["_target_"]
        return
    selection = f"{group}=[{option}]" if group == "eval" else f"{group}={option}"
    outer = ["algorithm=masked"] if group.startswith("algorithm/") else []  # which has these groups
    config = settled(*outer, selection, *MANDATORY.get(option, []))
    node = config
    if group.startswith(("sweep", "hydra/")):  # no part of a run
        return
    for part in group.split("/"):
        node = node[part]
    text = (CONF / group / f"{option}.yaml").read_text()
    content = yaml.safe_load(text)
    if group == "eval":  # a preset of an evaluator stands in that one's place
        node = node[text.partition("\n")[0].removeprefix("# @package eval.")]
    if option == "none" and "_target_" not in content:
        assert node is None
    else:
        assert node["_target_"] == content["_target_"]


def test_the_default_is_simclr_on_digits():
    assert settled() == settled("experiment=simclr_digits")


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_interpolation_refers_to_hydra_and_no_path_to_a_machine(path: Path):
    text = path.read_text()
    assert "${hydra:" not in text
    assert "/home" not in text


def test_a_dataset_inside_a_dataset_is_selected_like_any_option_over_any_experiment():
    for first in ("experiment=simclr_digits", "experiment=cactus_omniglot"):
        assert settled(first, "dataset=clustered")["dataset"] == settled("dataset=clustered")["dataset"]
        chosen = settled(first, "dataset=clustered", "dataset@dataset.dataset=mnist", "dataset.dataset.size=20")
        assert chosen["dataset"]["dataset"] == settled("dataset=mnist", "dataset.size=20")["dataset"]
    assert settled("experiment=cactus_omniglot", "dataset=mnist")["dataset"] == settled("dataset=mnist")["dataset"]
