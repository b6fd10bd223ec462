"""Clusters as classes: those of k-means, without labels, each from one partition; and the encoder of the features."""

import inspect
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ssl_runner import train
from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.hashing import config_difference, config_hash
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.data.episodes import tasks
from ssl_runner.data.episodes.tasks import TaskSampler
from ssl_runner.data.sources import partitions
from ssl_runner.data.sources.cache import cache_folder
from ssl_runner.data.sources.clustered import as_classes, clustered, read_encoder
from ssl_runner.data.sources.digits import digits
from ssl_runner.data.sources.partitions import kept_partition, partition
from ssl_runner.errors import DataError, NotDownloaded
from ssl_runner.evaluation.gallery import gallery_indices
from ssl_runner.evaluation.unseen import sources
from ssl_runner.runtime import randomness
from ssl_runner.runtime.no_download import no_download

needs_domains = pytest.mark.skipif(
    "class_domains" not in inspect.getsource(tasks), reason="tasks do not keep to one domain yet"
)


@pytest.fixture
def splits() -> Splits:
    return digits("classes", 0.0, 0.0, [5, 0, 5], split_seed=0, size=16, channels=None)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Empty."""
    monkeypatch.setenv("SSL_RUNNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The run of a small encoder of 16 x 16 digits."""
    folder = tmp_path_factory.mktemp("run")
    words = [
        "dataset=digits",
        "dataset.size=16",
        "model.encoder.width=4",
        "trainer.max_epochs=null",
        "trainer.max_steps=2",
        "trainer.progress=false",
    ]
    train.run(validate.checked_config(Composer(conf_folder()), [*words, "eval=[]", "baselines=[]"])[0], folder)
    return folder


def made(splits: Splits, encoder: Path | None = None, n: int = 2, clusters: int = 8, least: int = 5, seed: int = 0):
    return clustered(splits, None if encoder is None else str(encoder), n, clusters, least, seed)


def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Points around twelve distant corners, and the corner of each point."""
    generator = np.random.default_rng(0)
    corners = 10 * np.eye(12)
    which = generator.permutation(np.arange(12).repeat(30))
    return (corners[which] + 0.1 * generator.standard_normal((360, 12))).astype(np.float32), which


def same_grouping(one: torch.Tensor, other: torch.Tensor) -> bool:
    return len({(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True)}) == len(one.unique())


def test_distant_groups_are_found_in_every_metric():
    points, which = blobs()
    found = partition(points, 3, 12, seed=1)
    assert found.shape == (3, 360) and found.dtype == torch.int64
    assert same_grouping(found[0], torch.from_numpy(which))


def test_partitions_equal_k_means_on_features_scaled_by_their_own_numbers(splits):
    from sklearn.cluster import MiniBatchKMeans

    features = splits.train.images.flatten(1).numpy().astype(np.float32)
    found = partition(features, 3, 7, seed=4)
    for number in range(3):
        scales = randomness.uniforms(4, "clusters/scales", number, 1, features.shape[1])[0] if number else 1.0
        start = randomness.number(4, "clusters/k-means", number) % 2**32
        kmeans = MiniBatchKMeans(7, batch_size=partitions.BATCH, n_init=1, random_state=start)
        assert torch.equal(found[number], torch.from_numpy(kmeans.fit_predict(features * scales)).long())
    assert not same_grouping(found[0], found[1]) and not same_grouping(found[1], found[2])


def test_clusters_depend_on_the_seed_and_draw_nothing_from_numpy_or_torch():
    points, _ = blobs()
    before, state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    one, again, other = (partition(points, 2, 9, seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(state, torch.get_rng_state())


def test_classes_are_the_clusters_that_are_large_enough_with_their_images():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8, generator=generator)
    toy = Dataset("toys/train", images, None, (), None, "toys")
    clusters = torch.randint(0, 9, (3, 60), generator=generator)
    found = as_classes(toy, clusters, 6, "clustered")
    expected = {}
    for number in range(3):
        for cluster in range(9):
            own = [images[i].numpy().tobytes() for i in range(60) if clusters[number, i] == cluster]
            if len(own) >= 6:
                expected[f"{number}/{cluster}"] = sorted(own)
    assert list(found.class_names) == list(expected) and 6 < len(expected) < 27
    assert found.labels is not None and found.class_domains is not None
    for label, name in enumerate(found.class_names):
        own = [image.numpy().tobytes() for image in found.images[found.labels == label]]
        assert sorted(own) == expected[name]
        assert found.class_domains[label] == f"partition {name.partition('/')[0]}"
    assert len(found) == sum(map(len, expected.values()))


def test_training_labels_are_never_used_and_the_others_are_unchanged(splits):
    expected = made(splits)
    labels = splits.train.labels
    for other in (labels.roll(7), None):
        source = replace(splits, train=replace(splits.train, labels=other, fingerprint="another"))
        found = made(source).train
        assert torch.equal(found.images, expected.train.images)
        assert torch.equal(found.labels, expected.train.labels)
        assert (found.class_names, found.fingerprint) == (expected.train.class_names, expected.train.fingerprint)
    assert expected.test is splits.test and expected.validation is splits.validation
    assert expected.train.name == "digits clustered by pixels/train"
    assert "digits" in sources(expected.train)  # so these images do not count as unseen


def test_clusters_depend_on_the_encoders_features_and_the_fingerprint_on_its_weights(splits, run, tmp_path):
    pixels, found = made(splits), made(splits, run)
    assert found.train.name == "digits clustered by features/train"
    assert "digits" in sources(found.train)  # so these images do not count as unseen
    assert found.train.fingerprint != pixels.train.fingerprint
    encoder, _, seen = read_encoder(str(run), splits.train)
    assert seen == found.train.seen == pixels.train.seen == ("digits",)
    known = replace(splits, train=replace(splits.train, seen=("cifar10",)))
    assert made(known, run).train.seen == made(known).train.seen == ("digits", "cifar10")
    features = torch.nn.functional.normalize(encoder(splits.train.images), dim=1).numpy()
    again = as_classes(splits.train, partition(features, 2, 8, 0), 5, "clustered")
    assert torch.equal(found.train.labels, again.labels)
    shutil.copytree(run, tmp_path / "moved")
    assert made(splits, tmp_path / "moved").train.fingerprint == found.train.fingerprint
    assert made(splits, tmp_path / "moved" / "encoder.safetensors").train.fingerprint == found.train.fingerprint
    weights = load_file(run / "encoder.safetensors")
    changed = {name: value * 1.5 if value.ndim > 1 else value for name, value in weights.items()}
    from ssl_runner.models.saving import read_metadata

    file, metadata = tmp_path / "moved" / "encoder.safetensors", read_metadata(run / "encoder.safetensors")
    save_file(changed, file, metadata | {"sources": '["mnist"]'})
    another = made(splits, tmp_path / "moved").train
    assert another.fingerprint != found.train.fingerprint
    assert another.seen == ("digits", "mnist")  # which do not count as unseen either
    del metadata["sources"]
    save_file(changed, file, metadata)
    with pytest.raises(DataError, match="does not say what it was trained on"):
        made(splits, tmp_path / "moved")


def test_the_encoders_path_is_outside_the_hash_and_may_change_on_resume():
    before, after = ({"dataset": {"encoder": path, "clusters": 500}} for path in ("here", "there"))
    assert config_hash(before) == config_hash(after) and config_difference(before, after) == []
    assert config_hash(before) != config_hash({"dataset": {"encoder": "here", "clusters": 100}})


def test_a_run_that_is_missing_unfinished_or_of_other_images_is_reported(splits, run, tmp_path):
    with pytest.raises(
        DataError, match=r"^dataset.encoder=\S+/no: \S+ does not exist; give the folder of a finished run"
    ):
        made(splits, tmp_path / "no")
    (tmp_path / "begun").mkdir()
    with pytest.raises(DataError, match="does not exist; give the folder of a finished run"):
        made(splits, tmp_path / "begun")
    (tmp_path / "begun" / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(DataError, match=r"it is not finished; resume with: .*resume=\S+/begun$"):
        made(splits, tmp_path / "begun")
    larger = digits("classes", 0.0, 0.0, [5, 0, 5], split_seed=0, size=20, channels=None)
    with pytest.raises(DataError, match=r"takes images of 1x16x16, but those of digits/train are 1x20x20; set dataset"):
        made(larger, run)
    (tmp_path / "begun" / "encoder.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is damaged"):
        made(splits, tmp_path / "begun")


def test_clusters_are_made_once_and_again_if_the_cached_ones_are_damaged(splits, cache, monkeypatch):
    expected = made(splits).train
    with monkeypatch.context() as patch:
        patch.setattr(partitions, "partition", lambda *_: pytest.fail("made again"))
        assert torch.equal(made(splits).train.labels, expected.labels)
        assert made(splits, least=110).train.n_classes < expected.n_classes  # a choice among the same clusters
    (entry,) = cache.glob("clusters-*.safetensors")
    entry.write_bytes(b"damaged")
    assert torch.equal(made(splits).train.labels, expected.labels)
    for change in ({"n": 1}, {"clusters": 9}, {"seed": 1}):
        made(splits, **change)
    assert len(list(cache.iterdir())) == 4


def test_a_cache_that_cannot_be_written_causes_a_warning_not_a_failure(splits, cache):
    expected = made(splits).train
    shutil.rmtree(cache)
    cache.write_text("a file in the place of the folder")
    with pytest.warns(RuntimeWarning, match=r"clusters are not cached: .* Set SSL_RUNNER_CACHE"):
        assert torch.equal(made(splits).train.labels, expected.labels)


def test_before_they_are_made_even_blank_clusters_replace_them(splits):
    with no_download() as absent:
        found = made(splits).train
        with pytest.raises(NotDownloaded):
            kept_partition(lambda: pytest.fail("made"), 1, 2, 0)
    assert absent == ["clusters", "clusters"]
    assert (found.n_classes, len(found), bool(found.images.any())) == (16, 2 * len(splits.train), False)
    assert not list(cache_folder().glob("*")) if cache_folder().exists() else True
    real = made(splits).train
    with no_download() as absent:
        assert torch.equal(made(splits).train.images, real.images)
    assert absent == []


def test_too_few_clusters_and_impossible_numbers_are_reported(splits):
    with pytest.raises(
        DataError, match=r"of 8 clusters of digits/train have dataset.min_images=500 images.*; lower it"
    ):
        made(splits, least=500)
    for name, words in {"n": "partitions=0", "clusters": "clusters=0", "least": "min_images=0"}.items():
        with pytest.raises(DataError, match=f"^dataset.{words}: give at least"):
            made(splits, **{name: 0})
    with pytest.raises(DataError, match=r"^dataset.clusters=9999, but digits/train has \d+ images; lower it"):
        made(splits, clusters=9999)
    with pytest.raises(ValueError, match=r"dataset\.seed=-1"):
        made(splits, seed=-1)


def test_a_probe_cannot_be_trained_on_clusters_and_tested_on_classes():
    splits = digits("images", 0.1, 0.25, None, split_seed=0, size=None, channels=None)
    with pytest.raises(ValueError, match=r"has other classes than digits/test.*choose eval=\[few_shot\]"):
        gallery_indices(made(splits))
    assert len(gallery_indices(splits).gallery) == len(splits.train) + len(splits.validation)


@needs_domains
def test_a_task_stays_within_one_partition(splits):
    found = made(splits, n=3).train
    sampler = TaskSampler(found, 4, 1, 3)
    drawn = sampler(randomness.uniforms(0, "tasks", 0, 300, sampler.columns))
    assert found.labels is not None and found.class_domains is not None
    domains = np.array(found.class_domains)[found.labels.numpy()]
    of_tasks = [set(domains[[*support, *query]]) for support, query in zip(drawn.support, drawn.query, strict=True)]
    assert all(len(domain) == 1 for domain in of_tasks)
    assert len(set.union(*of_tasks)) == 3
