"""Every recipe fits other data and another encoder with only that override, or says what to lower."""

import re

import pytest
from datasets_read_once import datasets_read_once
from PIL import Image

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.building import build
from ssl_runner.errors import ConfigError
from ssl_runner.runtime.no_download import no_download
from ssl_runner.wiring import wire

CONF = conf_folder()
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
ON_CIFAR10 = [name for name in EXPERIMENTS if name.endswith("_cifar10") and "_to_" not in name]
FROM_TWO = [name for name in EXPERIMENTS if name.endswith("_mnist_fashion_to_cifar10")]
FROM_FOUR = [name for name in EXPERIMENTS if name.endswith("_four_sources_to_cifar10")]
FOUR = ("mnist", "fashion_mnist", "omniglot", "tiny_imagenet")
ADAPTING = {
    f"{name}_omniglot"
    for name in ("maml", "anil", "boil", "meta_sgd", "maml_pp", "protomaml", "reptile", "imaml", "umtra")
}


@pytest.fixture(autouse=True, scope="module")
def each_dataset_is_read_once():
    with datasets_read_once({}):
        yield


@pytest.mark.parametrize("name", ON_CIFAR10)
@pytest.mark.parametrize("other", [["dataset=digits"], ["dataset=mnist", "model/encoder=conv4"]])
def test_every_recipe_for_cifar10_fits_other_data_and_another_encoder_unchanged(name, other, data_root):
    """Complete recipes, with their batch sizes and widths: wiring rehearses the first step on the meta device.

    Those that hide patches refuse an encoder that has none.
    """
    config = validate.checked_config(Composer(CONF), [f"experiment={name}", *other, "baselines=[]"])[0]
    if config["masking"] is not None and "model/encoder=conv4" in other:
        with pytest.raises(
            ConfigError, match="Conv4 has no patches that could be hidden; choose model/encoder=vit_tiny"
        ):
            wire.wire(config)
        return
    run = wire.wire(config)
    assert run.step_bytes is not None
    assert run.trainer.steps(run.batching) >= 400


@pytest.mark.parametrize("name", ["ibot", "dinov2"])
def test_local_views_that_patches_do_not_divide_are_refused_with_the_remedy(name, data_root):
    words = [f"experiment={name}_fashion_mnist", "batching=multi_crop", "baselines=[]", "batching.batch_size=4"]
    words += (
        [] if name == "ibot" else ["batching.local_pool=2", "batching.local_augmentation.transforms.crop.size=null"]
    )
    with pytest.raises(ConfigError, match="images of 14 x 14 pixels cannot be cut into patches of 4") as refused:
        wire.wire(validate.checked_config(Composer(CONF), words)[0])
    remedy = re.findall(r"batching\.\S+=\d+", str(refused.value))
    assert wire.wire(validate.checked_config(Composer(CONF), [*words, *remedy])[0]).step_bytes is not None


@pytest.mark.parametrize("name", FROM_TWO)
@pytest.mark.parametrize("shape", [[], ["dataset.size=32", "dataset.channels=3"]], ids=["gray 28", "RGB 32"])
def test_every_recipe_across_datasets_accepts_another_shape_with_two_keys(name, shape, data_root):
    run = wire.wire(validate.checked_config(Composer(CONF), [f"experiment={name}", *shape, "baselines=[]"])[0])
    assert_shape_and_sources(run, (3, 32, 32) if shape else (1, 28, 28), ("mnist", "fashion_mnist"))
    assert {run.evaluators[target].target.source for target in ("verdict", "few_shot_omniglot")} == {
        "cifar10",
        "omniglot",
    }


@pytest.mark.parametrize("name", FROM_FOUR)
@pytest.mark.parametrize("shape", [[], ["dataset.size=28", "dataset.channels=1"]], ids=["RGB 32", "gray 28"])
def test_every_recipe_from_four_sources_does_too(name, shape, tmp_path, monkeypatch):
    """With blank images: reading real ones takes a minute."""
    monkeypatch.setenv("SSL_RUNNER_DATA", str(tmp_path))
    config = validate.checked_config(Composer(CONF), [f"experiment={name}", *shape, "baselines=[]"])[0]
    with no_download():
        run = wire.wire(config)
    assert_shape_and_sources(run, (1, 28, 28) if shape else (3, 32, 32), FOUR)
    assert run.evaluators["verdict"].target.source == "cifar10"


def assert_shape_and_sources(run, shape, sources):
    assert run.step_bytes is not None
    images = {run.splits.train.images.shape[1:], run.algorithm.network.encoder.input_shape}
    targets = [getattr(evaluator, "target", None) for evaluator in run.evaluators.values()]
    images |= {target.images.shape[1:] for target in targets if target is not None}
    assert images == {shape}
    assert run.splits.train.domains == sources


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory):
    """A hundred digit images in ten classes, in files."""
    digits = build(validate.checked_config(Composer(CONF), ["dataset=digits"])[0]["dataset"], "dataset").train
    root = tmp_path_factory.mktemp("images")
    for label in range(10):
        (root / f"digit{label}").mkdir()
        for number, image in enumerate(digits.images[digits.labels == label][:100]):
            Image.fromarray(image[0].numpy()).save(root / f"digit{label}" / f"{number}.png")
    return root


OMNIGLOT = [name for name in EXPERIMENTS if name.endswith("_omniglot")]
FILES = ("simclr_omniglot", "protonet_omniglot", "maml_omniglot", "umtra_omniglot")  # one of each kind


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        *((dataset, name) for dataset in ("digits", "cifar10") for name in OMNIGLOT),
        *(("image_folder", name) for name in FILES),
    ],
)
def test_every_recipe_for_omniglot_fits_other_data_or_says_what_to_lower(name, dataset, data_root, request):
    """With ten classes, recipes with more ways are refused by name, and fit with the suggested remedy."""
    words = [f"experiment={name}", f"dataset={dataset}", "baselines=[]"]
    if dataset == "image_folder":
        words.append(f"dataset.root={request.getfixturevalue('folder_of_images')}")
    try:
        wire.wire(validate.checked_config(Composer(CONF), words)[0])
    except ConfigError as refused:
        text = str(refused)
        assert "has 10 classes" in text, text
        words += ["batching.n_way=5"] if "lower batching.n_way" in text else []
        words += re.findall(r"eval\.few_shot\.\w+=\S+", text)
        assert wire.wire(validate.checked_config(Composer(CONF), words)[0]).step_bytes is not None
        assert name not in ADAPTING  # their five ways fit


@pytest.mark.parametrize("name", ["simclr", "umtra", "protoclr", "psco", "cactus"])
def test_recipes_without_labels_are_scored_on_the_same_episodes_as_those_with_labels(name):
    """Tasks are a function of the test images and of these values (`FewShot.tasks`)."""
    own, other = (
        validate.checked_config(Composer(CONF), [f"experiment={one}_omniglot"])[0] for one in (name, "protonet")
    )
    dataset = own["dataset"]["dataset"] if name == "cactus" else own["dataset"]
    assert dataset == other["dataset"]
    ours, theirs = (config["eval"]["few_shot"] for config in (own, other))
    assert all(ours[key] == theirs[key] for key in ("n_query", "episodes", "seed"))
    adapting = validate.checked_config(Composer(CONF), ["experiment=maml_omniglot"])[0]["eval"]["few_shot"]["settings"]
    assert set(adapting if name == "umtra" else theirs["settings"]) <= set(ours["settings"])


@pytest.mark.parametrize("name", ["maml", "r2d2", "baseline_pp", "context", "caml"])
def test_meta_learners_on_tiny_imagenet_are_trained_on_other_classes_and_scored_on_the_same_episodes(name):
    own, other = (
        validate.checked_config(Composer(CONF), [f"experiment={one}_tiny_imagenet"])[0] for one in (name, "protonet")
    )
    assert own["dataset"]["split"] == "classes"
    assert all(own[key] == other[key] for key in ("dataset", "augmentation", "eval"))
    assert own["model"]["encoder"]["_target_"].endswith("Conv4")
