"""Every file under conf/ composes and passes the check."""

from pathlib import Path

import pytest
import yaml

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder

CONF = conf_folder()
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.parent.name != "experiment"
)
MANDATORY = {
    "image_folder": ["dataset.root=."],
    "torchvision": ["dataset.name=KMNIST"],
    "timm": ["model.encoder.name=resnet10t"],
}


def settled(*overrides: str) -> dict:
    return validate.settled(Composer(CONF), list(overrides))[0]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_named_after_its_file(name):
    config = settled(f"experiment={name}")
    assert config["name"] == name
    first = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()[1]
    assert first.startswith("# "), "the help page shows the first comment"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group, option):
    selection = f"{group}=[{option}]" if group == "eval" else f"{group}={option}"
    config = settled(selection, *MANDATORY.get(option, []))
    node = config
    for part in group.split("/"):
        node = node[part]
    node = node[option] if group == "eval" else node
    content = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    assert node["_target_"] == content["_target_"]


def test_the_default_is_simclr_on_digits():
    assert settled() == settled("experiment=simclr_digits")


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_interpolation_reaches_into_hydra_and_no_path_is_of_a_machine(path: Path):
    text = path.read_text()
    assert "${hydra:" not in text
    assert "/home" not in text


def test_a_dataset_within_a_dataset_is_chosen_like_any_option_over_any_experiment():
    for first in ("experiment=simclr_digits", "experiment=cactus_omniglot"):
        assert settled(first, "dataset=clustered")["dataset"] == settled("dataset=clustered")["dataset"]
        chosen = settled(first, "dataset=clustered", "dataset@dataset.dataset=mnist", "dataset.dataset.size=20")
        assert chosen["dataset"]["dataset"] == settled("dataset=mnist", "dataset.size=20")["dataset"]
    assert settled("experiment=cactus_omniglot", "dataset=mnist")["dataset"] == settled("dataset=mnist")["dataset"]
