"""``ssl-train --help loss=hard_negative``: every option is explained, key by key, without torch or Hydra."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssl_runner.cli import docstrings, layout, option_help, options
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.errors import ConfigError

CONF = [conf_folder()]
WORDS = [f"{group}={name}" for group, names in options.groups(CONF).items() for name in names]


def read(word: str) -> options.Option:
    group, _, name = word.partition("=")
    return options.read(CONF, group, name)


def key(word: str, name: str) -> options.Key:
    return next(key for key in read(word).keys if key.name == name)


def test_every_group_and_option_is_found():
    files = [path for path in CONF[0].rglob("*.yaml") if path.parent != CONF[0]]
    assert len(WORDS) == len(files) > 100


# a suite has rows of words, and no keys to be set; these two set another's key to null
KEYED = [
    word for word in WORDS if not word.startswith("suite=") and word not in ("masking=none", "algorithm/predictor=none")
]


@pytest.mark.parametrize("word", KEYED)
def test_every_option_is_described_and_each_of_its_keys_explained(word):
    option = read(word)
    assert any(options.summaries([option]).values())
    assert [key.name for key in option.keys if not key.text] == []


@pytest.mark.parametrize("word", [word for word in KEYED if not word.startswith(("experiment", "optimizer"))])
def test_every_key_says_what_it_takes(word):
    assert [
        key.name
        for key in read(word).keys
        if not key.kind and ".transforms." not in key.name and key.name != "baselines"
    ] == []


@pytest.mark.parametrize("word", [word for word in WORDS if not word.startswith("sweep=")])
def test_every_key_that_conf_sets_is_there(word):
    group, _, name = word.partition("=")
    content = yaml.safe_load((CONF[0] / group / f"{name}.yaml").read_text())
    own = {each for each in content if each[0] != "_" and each != "defaults"} - {"_target_"}
    shown = [each.name for each in read(word).keys]
    assert all(any(f".{each}." in f".{name}." for name in shown) for each in own)


def test_a_key_has_its_value_its_type_its_docstring_and_its_comment():
    found = key("loss=hard_negative", "loss.tau_plus")
    assert found.value == "0.1"
    assert found.kind == "number"
    assert found.text.startswith("In [0, 1): the probability that two images belong to one class")
    assert key("model/head=projector", "model.head.out_features").comment == "arXiv:2002.05709, like the layers"


def test_numbers_by_name_are_one_value():
    found = key("dataset=four_sources", "dataset.weights")
    assert found.value == "{mnist: 1, fashion_mnist: 1, omniglot: 1, tiny_imagenet: 7}"
    assert found.kind == "mapping to numbers or null"
    assert [each.name for each in read("dataset=four_sources").keys if each.name.startswith("dataset.weights.")] == []


def test_arguments_that_a_class_leaves_to_another_are_explained():
    inherited = key("algorithm=boil", "algorithm.inner_steps")
    assert inherited.text == key("algorithm=maml", "algorithm.inner_steps").text != ""
    of_another_function = key("dataset=fashion_mnist", "dataset.validation")
    assert of_another_function.text == key("dataset=mnist", "dataset.validation").text != ""


def test_literal_types_behind_an_alias_are_listed():
    assert key("dataset=mnist", "dataset.duplicates").kind == "warn or drop or refuse"
    assert key("dataset=mnist", "dataset.class_counts").kind == "list of integers or null"


def test_nested_nodes_are_explained_with_their_classes():
    option = read("augmentation=simclr")
    assert key("augmentation=simclr", "augmentation.transforms.crop.scale").value == "[0.08, 1.0]"
    assert "augmentation.transforms.jitter" in [node.name for node in option.nodes]


def test_options_of_a_group_inside_another_are_explained_and_nothing_is_named_as_what_it_sets():
    assert key("algorithm/target=frequencies", "algorithm.target.share").kind == "number"
    assert key("algorithm/predictor=transformer", "algorithm.predictor.depth").text.startswith("Blocks, at least 1")
    for word, name in (("masking=none", "masking"), ("algorithm/predictor=none", "algorithm.predictor")):
        assert [(each.name, each.value) for each in read(word).keys] == [(name, "null")]
    shown = option_help.page(CONF, ["algorithm/target=pixels"])
    assert "algorithm.target.normalised=false  true or false. Whether each patch has mean 0 and variance 1" in shown


def test_what_an_option_contains_is_named_as_it_is_typed():
    assert read("algorithm=masked").selects == {
        "algorithm.target": "algorithm/target=normalised_pixels",
        "algorithm.predictor": "algorithm/predictor=transformer",
    }
    assert read("eval=few_shot_omniglot").selects["eval.few_shot_omniglot.classifiers.tim"] == "eval/classifier=tim"


def test_items_of_a_list_stand_in_lines_of_their_own():
    shown = option_help.page(CONF, ["algorithm=masked"]).splitlines()
    items = [line for line in shown if line.startswith("  - ")]
    assert [item[4:].partition(" ")[0] for item in items] == ["MAE", "SimMIM", "I-JEPA", "data2vec", "iBOT"]
    assert shown[shown.index(items[-1]) + 1].startswith("    prototypes")


def test_a_sweep_tells_what_differs_between_its_jobs_from_what_does_not():
    keys = {key.name: key for key in read("sweep=masked").keys}
    assert keys["seed"].text == keys["experiment"].text == "A job for each."
    assert keys["eval"].text == keys["eval.fine_tuning_10pct.epochs"].text == "The same in every job."
    assert " " not in keys["experiment"].value
    assert keys["eval.fine_tuning_10pct.epochs"].comment.startswith("940 steps")
    assert keys["trainer.threads"].value == "1"


def test_an_experiment_built_upon_another_says_where_the_rest_is():
    shown = option_help.page(CONF, ["experiment=mae_fashion_mnist"])
    assert "  What it leaves open is mae_cifar10's: ssl-train --help experiment=mae_cifar10\n" in shown
    assert "leaves open" not in option_help.page(CONF, ["experiment=mae_cifar10"])


def test_an_evaluator_is_named_by_its_place_in_the_config():
    assert key("eval=knn_cifar10", "eval.knn_cifar10.k").comment == "arXiv:1805.01978"


def test_an_experiment_shows_what_it_selects_and_explains_what_it_sets():
    option = read("experiment=simclr_mnist")
    assert option.selects == {"dataset": "mnist", "optimizer": "adam"}
    size = next(key for key in option.keys if key.name == "batching.batch_size")
    assert size.value == "128"
    assert size.text == key("batching=two_view", "batching.batch_size").text


def test_an_experiment_shows_what_it_builds_upon_and_explains_keys_by_what_that_selects():
    option = read("experiment=dinov2_tiny_imagenet")
    assert option.selects == {"experiment": "dinov2_cifar10", "dataset": "tiny_imagenet"}
    patch = next(key for key in option.keys if key.name == "model.encoder.patch_size")
    assert patch.text == key("model/encoder=vit_tiny", "model.encoder.patch_size").text
    inner = key("experiment=dinov2_cifar10", "algorithm.image_loss.warmup_share")
    assert inner.text == key("loss=dino", "loss.warmup_share").text


def test_keys_of_what_an_option_contains_are_explained():
    """algorithm=masked brings algorithm/predictor=transformer, which the experiment does not name."""
    depth = key("experiment=mae_imagenet", "algorithm.predictor.depth")
    assert depth.text == key("algorithm/predictor=transformer", "algorithm.predictor.depth").text


def test_an_option_that_is_nothing_says_so():
    assert [(each.name, each.text) for each in read("masking=none").keys] == [("masking", "Nothing is hidden.")]


def test_a_sentence_ends_neither_in_parentheses_nor_after_an_abbreviation():
    text = "By Chen et al. (2020, app. B. 9), sec. 4.2, as is. Then more."
    assert layout.first_sentence(text) == "By Chen et al. (2020, app. B. 9), sec. 4.2, as is."


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("los", "did you mean 'loss'?"),
        ("loss=nt_xnt", "did you mean 'loss=nt_xent'?"),
        ("loss=hard", "did you mean 'loss=hard_negative'?"),
        ("hard_negative", "did you mean 'loss=hard_negative'?"),
        ("encoder", "did you mean 'model/encoder'?"),
        ("loss.temperature", "did you mean 'loss'?"),
        ("qqq", "there are algorithm, "),
        ("loss=qqq", "ssl-train --help loss lists its options"),
    ],
)
def test_what_there_is_not_is_refused_with_a_suggestion(word, hint):
    with pytest.raises(ConfigError) as caught:
        option_help.page(CONF, [word])
    assert word in str(caught.value)
    assert hint in str(caught.value)


def ssl_train(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ssl_runner.train", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_line_prints_the_help_of_options_and_groups():
    shown = ssl_train("--help", "loss=hard_negative")
    assert shown.returncode == 0
    assert shown.stdout == option_help.page(CONF, ["loss=hard_negative"])
    assert "loss.beta=1.0" in shown.stdout
    assert "  mochi " in ssl_train("loss", "--help").stdout


def test_a_mistake_is_one_message_and_exit_code_2():
    failed = ssl_train("--help", "loss=nt_xnt")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr == "loss=nt_xnt: there is no such option; did you mean 'loss=nt_xent'?\n"


def test_options_of_a_folder_of_ones_own_are_explained(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n# A recipe of mine. With more.\nname: mine\nloss:\n  temperature: 0.3  # warmer\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    shown = ssl_train("--help", "experiment=mine", "--config-dir", str(tmp_path)).stdout
    assert "A recipe of mine." in shown
    assert "loss.temperature=0.3  number. Above 0; divides the cosine similarities. [warmer]" in shown
    assert "A recipe of mine." in ssl_train("--help", "--config-dir", str(tmp_path)).stdout


def test_a_damaged_file_is_named(tmp_path: Path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text("temperature: [0.3\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml is no YAML"):
        option_help.page([*CONF, tmp_path], ["loss=mine"])


def test_neither_torch_nor_hydra_is_imported():
    program = (
        "import sys; from ssl_runner.cli import option_help, search_path;"
        "option_help.page([search_path.conf_folder()], ['loss', 'algorithm=maml', 'optimizer=sgd', 'experiment']);"
        "print(sorted({'torch', 'hydra', 'timm'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_target_without_a_source_has_no_description():
    assert docstrings.describe("no_such_package.Thing") == docstrings.Found()
    assert docstrings.describe("ssl_runner.losses.nt_xent.NoSuchLoss") == docstrings.Found()
