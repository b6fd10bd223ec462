"""Several datasets as one: which images are where, under which labels, and what is never trained on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.building import build
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.data.episodes.tasks import TaskSampler
from ssl_runner.data.sources.mixture import mixture
from ssl_runner.errors import ConfigError, DataError
from ssl_runner.evaluation.unseen import shares_images
from ssl_runner.runtime import randomness
from ssl_runner.runtime.no_download import no_download
from ssl_runner.wiring import wire

CONF = conf_folder()
NAMES = {"a": tuple("0123"), "b": ("x", "y", "z")}


def part(name: str, seed: int, n: int = 60, side: int = 4) -> Dataset:
    """Random images of every class of a source."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(n, generator=generator) % len(NAMES[name])
    images = torch.randint(256, (n, 1, side, side), generator=generator, dtype=torch.uint8)
    return Dataset(f"{name}/{seed}", images, labels, NAMES[name], None, f"{name} {seed}")


@pytest.fixture
def sources() -> dict[str, Splits]:
    return {
        "a": Splits(part("a", 0), None, part("a", 1), "images"),
        "b": Splits(part("b", 2), None, part("b", 3), "images"),
    }


def mixed(sources, held_out=2, mix=False, split_seed=0, size=None, channels=None, weights=None) -> Splits:
    return mixture(sources, held_out, mix, split_seed, size, channels, weights)


def by_name(dataset: Dataset) -> dict[str, set[bytes]]:
    """The images of each class by its full name."""
    return {
        name: {image.numpy().tobytes() for image in dataset.images[dataset.labels == label]}
        for label, name in enumerate(dataset.class_names)
    }


@pytest.mark.parametrize("held_out", [0, 1, 2])
def test_train_and_test_have_exactly_the_sources_images_of_their_classes(sources, held_out):
    found = mixed(sources, held_out)
    train, test = by_name(found.train), by_name(found.test)
    for name, splits in sources.items():
        for label, class_name in enumerate(splits.train.class_names):
            full = f"{name}/{class_name}"
            for split, where in ((splits.train, train), (splits.test, test)):
                images = {image.numpy().tobytes() for image in split.images[split.labels == label]}
                assert full not in where or where[full] == images
            assert (full in train) + (full in test) == (1 if held_out else 2)
    assert sum(map(len, train.values())) == len(found.train)
    assert len(test) == (2 * held_out or 7)
    assert (found.by, found.validation) == ("classes" if held_out else "images", None)


def test_each_class_has_the_domain_of_its_source(sources):
    for dataset in (mixed(sources).train, mixed(sources).test):
        assert dataset.class_domains == tuple(name.partition("/")[0] for name in dataset.class_names)
        assert dataset.domains == ("a", "b")
        assert dataset.labels.unique().tolist() == list(range(dataset.n_classes))


def test_it_names_the_datasets_it_was_made_from(sources):
    clusters = replace(sources["b"].train, name="c clustered by features/train", seen=("d",))
    found = mixed({"one": sources["a"], "two": replace(sources["b"], train=clusters)}, held_out=0)
    assert found.train.domains == ("one", "two")
    assert found.train.seen == ("a", "c clustered by features", "d")
    d = replace(sources["b"].test, name="D/test")
    assert shares_images(sources["a"].test, found.train) and shares_images(d, found.train)
    assert not shares_images(sources["b"].test, mixed({"b": sources["a"]}, held_out=0).train)  # b by name, a by images


@pytest.fixture
def by_classes() -> Splits:
    """A source whose train and test have different classes."""
    of_test = replace(part("b", 3), name="c/test", class_names=("u", "v", "w"))
    return Splits(replace(part("b", 2), name="c/train"), None, of_test, "classes")


@pytest.mark.parametrize("held_out", [1, 2])
def test_a_source_split_by_classes_keeps_its_own_split(sources, by_classes, held_out):
    found = mixed(sources | {"c": by_classes}, held_out)
    train, test = by_name(found.train), by_name(found.test)
    for split, there in ((by_classes.train, train), (by_classes.test, test)):
        own = {name: images for name, images in there.items() if name.startswith("c/")}
        assert own == {f"c/{name}": images for name, images in by_name(split).items()}
    counts = {name: found.test.class_domains.count(name) for name in "abc"}
    assert counts == {"a": held_out, "b": held_out, "c": 3}
    assert found.by == "classes" and mixed({"c": by_classes}, held_out=0).by == "classes"


def test_weights_are_shares_of_the_tasks(sources):
    train = mixed(sources, weights={"a": 3}).train  # and 1 of b
    assert train.domain_shares == (0.75, 0.25)
    sampler = TaskSampler(train, 1, 1, 1)
    n = 40_000
    drawn = np.bincount(sampler.drawn_domains(randomness.uniforms(0, "tasks", 0, n, sampler.columns)), minlength=2)
    assert drawn.sum() == n
    assert abs(drawn[0] - 0.75 * n) < 4 * (n * 0.75 * 0.25) ** 0.5
    tasks = sampler(randomness.uniforms(0, "tasks", 0, n, sampler.columns))
    of_a = torch.tensor([name == "a" for name in train.class_domains])
    assert int(of_a[train.labels[tasks.support[:, 0]]].sum()) == drawn[0]


def test_equal_weights_draw_the_tasks_that_no_weights_draw(sources):
    table = randomness.uniforms(0, "tasks", 0, 5_000, 4)
    with_them, without = (TaskSampler(mixed(sources, weights=weights).train, 1, 1, 1) for weights in ({"b": 1}, None))
    assert with_them.columns == 4
    assert torch.equal(with_them(table).support, without(table).support)


def test_weights_change_only_what_is_trained_on(sources):
    plain, weighted = mixed(sources), mixed(sources, weights={"a": 3, "b": 1})
    assert weighted.test.fingerprint == plain.test.fingerprint and weighted.test.domain_shares is None
    assert weighted.train.fingerprint != plain.train.fingerprint
    assert torch.equal(weighted.train.images, plain.train.images)
    left_out = mixed(sources | {"b": None}, weights={"a": 3, "b": 1})
    assert left_out.train.domain_shares == (1.0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"aa": 1}}, r"dataset\.weights\.aa: there is no such dataset"),
        ({"weights": {"a": 0}}, r"weights\.a=0; give a number above 0, or .*dataset\.datasets\.a=null"),
        ({"weights": {"b": -1.5}}, r"weights\.b=-1\.5; give a number above 0"),
        ({"weights": {"a": 2}, "mix": True}, r"set dataset\.weights=null or dataset\.mix=false"),
    ],
)
def test_an_impossible_weight_is_reported_with_its_remedy(sources, change, message):
    with pytest.raises(DataError, match=message):
        mixed(sources, **change)


def test_test_never_has_seen_and_unseen_classes(sources, by_classes):
    with pytest.raises(DataError, match=r"held_out=0: all classes of a .*give dataset\.held_out=2, or .*split=classes"):
        mixed(sources | {"c": by_classes}, held_out=0)


def test_no_task_mixes_sources_unless_mix_is_set(sources):
    def drawn(mix: bool) -> torch.Tensor:
        train = mixed(sources, 1, mix).train
        of_a = torch.tensor([name.startswith("a/") for name in train.class_names])
        sampler = TaskSampler(train, 2, 1, 1)
        tasks = sampler(randomness.uniforms(0, "tasks", 0, 2_000, sampler.columns))
        return of_a[train.labels[torch.cat([tasks.support, tasks.query], dim=1)]]

    apart, together = drawn(False), drawn(True)
    assert (apart == apart[:, :1]).all()
    assert 0.4 < (together != together[:, :1]).any(dim=1).float().mean() < 0.8  # 3 * 2 of 10 pairs


def test_the_held_out_classes_of_a_source_depend_on_the_seed_and_on_no_other_source(sources):
    both, alone = mixed(sources).test, mixed(sources | {"a": None}).test
    assert alone.class_names == tuple(name for name in both.class_names if name.startswith("b/"))
    assert alone.name == "b/test" and both.name == "a+b/test"
    held = {mixed(sources, split_seed=seed).test.class_names for seed in range(20)}
    assert len(held) > 5


def test_the_fingerprint_distinguishes_sources_and_choices(sources):
    choices = [{}, {"held_out": 1}, {"split_seed": 2}, {"mix": True}]
    found = [mixed(sources, **choice) for choice in choices] + [mixed({"b": sources["b"], "a": sources["a"]})]
    prints = {part.fingerprint for splits in found for part in (splits.train, splits.test)}
    assert len(prints) == 10
    assert mixed(sources).train.fingerprint == found[0].train.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"held_out": 3},
            r"held_out=3: b has 3 classes, and at least one must be trained on; give a number in \[0, 2\]",
        ),
        ({"held_out": -1}, r"dataset\.held_out=-1: a has 4 classes"),
        ({"split_seed": -1}, r"dataset\.split_seed=-1; give a number in"),
        (
            {"channels": 3},
            r"datasets\.a has images of 1 x 4 x 4, expected 3 x 4 x 4 .*set dataset\.datasets\.a\.size=4",
        ),
        ({"size": 8}, r"expected 1 x 8 x 8 .*datasets\.a\.size=8 dataset\.datasets\.a\.channels=1"),
    ],
)
def test_an_impossible_choice_is_reported_with_its_remedy(sources, change, message):
    with pytest.raises(DataError, match=message):
        mixed(sources, **change)


def test_a_source_that_does_not_fit_is_reported_with_its_remedy(sources):
    other = Splits(part("b", 2, side=5), None, part("b", 3, side=5), "images")
    with pytest.raises(DataError, match=r"datasets\.b has images of 1 x 5 x 5, expected 1 x 4 x 4 in every dataset"):
        mixed(sources | {"b": other})
    unlabelled = Dataset("b/train", part("b", 2).images, None, (), None, "b")
    with pytest.raises(DataError, match=r"datasets\.b has no labels.*datasets\.b=null"):
        mixed(sources | {"b": Splits(unlabelled, None, unlabelled, "images")})
    with pytest.raises(DataError, match="is empty, expected at least one dataset"):
        mixed({"a": None})


@pytest.fixture(scope="module")
def composed() -> Callable[..., dict]:
    return lambda *words: validate.checked_config(
        Composer(CONF), ["dataset=mixture", "eval=[]", "baselines=[]", *words]
    )[0]


def test_the_option_is_gray_28_and_rgb_32_with_two_keys_and_has_the_official_images(composed, data_root):
    gray = build(composed()["dataset"], "dataset")
    assert gray.train.images.shape[1:] == (1, 28, 28)
    assert gray.train.n_classes == 16 and gray.test.n_classes == 4
    alone = build(composed("dataset.datasets.fashion_mnist=null", "dataset.held_out=0")["dataset"], "dataset")
    single = build(
        validate.checked_config(Composer(CONF), ["dataset=mnist", "dataset.validation=0"])[0]["dataset"], "dataset"
    )
    for found, expected in ((alone.train, single.train), (alone.test, single.test)):
        assert torch.equal(found.images, expected.images) and torch.equal(found.labels, expected.labels)
    rgb = build(composed("dataset.size=32", "dataset.channels=3")["dataset"], "dataset")
    assert rgb.train.images.shape == (len(gray.train), 3, 32, 32)


def test_without_the_data_it_is_blank_takes_no_memory_and_fits_a_run(composed, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_DATA", str(tmp_path))
    with no_download() as absent:
        splits = build(composed("dataset.size=100", "dataset.channels=3")["dataset"], "dataset")
    assert absent == ["mnist", "fashion_mnist"]
    assert splits.train.images.shape == (96_000, 3, 100, 100)
    assert splits.train.images.untyped_storage().nbytes() < 100
    with (
        no_download(),
        pytest.raises(ConfigError, match=r"batch_size=100000, but mnist\+fashion_mnist/train has 96000"),
    ):
        wire.wire(composed("batching.batch_size=100000"))


def test_a_source_that_is_missing_names_its_own_root(composed, tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    node = composed(f"dataset.datasets.mnist.root={tmp_path}")["dataset"]
    with pytest.raises(DataError, match=r"mnist is missing.*\(or dataset\.datasets\.mnist\.root=FOLDER\)"):
        build(node, "dataset")


def test_four_sources_are_rgb_and_photographs_are_most_of_the_tasks(data_root):
    node = validate.checked_config(Composer(CONF), ["dataset=four_sources", "eval=[]", "baselines=[]"])[0]["dataset"]
    found = build(node, "dataset")
    assert found.train.domains == found.test.domains == ("mnist", "fashion_mnist", "omniglot", "tiny_imagenet")
    assert found.train.images.shape[1:] == (3, 32, 32)
    assert dict(zip(found.train.domains, found.train.domain_shares, strict=True)) == pytest.approx(
        {"mnist": 0.1, "fashion_mnist": 0.1, "omniglot": 0.1, "tiny_imagenet": 0.7}
    )
    counts = {name: found.train.class_domains.count(name) for name in found.train.domains}
    assert counts == {"mnist": 8, "fashion_mnist": 8, "omniglot": 1028, "tiny_imagenet": 156}
    assert not set(found.train.class_names) & set(found.test.class_names)
    assert found.train.seen == found.train.domains
