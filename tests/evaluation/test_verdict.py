"""The verdict: the same tasks as FewShot, baselines as described, no side effects, misfits refused."""

import copy
import hashlib
import json
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors import safe_open
from sklearn.linear_model import Ridge
from torch import nn

from ssl_runner.cli.search_path import conf_folder
from ssl_runner.data.dataset import Splits
from ssl_runner.data.sources.mnist import fashion_mnist
from ssl_runner.errors import ConfigError
from ssl_runner.evaluation.evaluator import asked_again, evaluate
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.fine_tuning import zero_head
from ssl_runner.evaluation.from_scratch import FromScratch
from ssl_runner.evaluation.paired import interval, strongest_baseline
from ssl_runner.evaluation.source_classifier import SourceClassifier, standardised
from ssl_runner.evaluation.verdict import BASELINES, Verdict
from ssl_runner.models.initialisation import initialised_anew
from ssl_runner.runtime import randomness
from ssl_runner.wiring.compatibility import check_evaluators

CPU = torch.device("cpu")
SMALL = {
    "settings": ["3w1s", "3w2s"],
    "n_query": 4,
    "episodes": 40,
    "seed": 0,
    "tasks_per_batch": 7,
    "ridge": 0.3,
    "supervised_steps": 6,
    "supervised_batch_size": 32,
    "supervised_lr": 0.01,
    "scratch_episodes": 4,
    "scratch_steps": 3,
    "scratch_lr": 0.01,
}


@pytest.fixture(scope="module")
def unseen(data_root) -> Splits:
    """Fashion-MNIST at the digits' size, 600 test images."""
    splits = fashion_mnist(data_root, "images", 0, None, 0, 8, None)
    test = splits.test
    return replace(splits, test=replace(test, images=test.images[:600], labels=test.labels[:600]))


def verdict(unseen: Splits, **changes) -> Verdict:
    return Verdict(unseen, **(SMALL | changes))


def trace(algorithm) -> tuple:
    """Parameters and buffers by content, modes and gradients."""
    digest = hashlib.sha256()
    for name, tensor in algorithm.state_dict(keep_vars=True).items():
        digest.update(name.encode() + tensor.detach().numpy().tobytes())
    modes = [part.training for part in algorithm.modules()]
    gradients = [(parameter.requires_grad, parameter.grad) for parameter in algorithm.parameters()]
    return digest.hexdigest(), modes, gradients


@pytest.mark.parametrize("way", ["short", "long"])
def test_it_leaves_algorithm_and_generators_unchanged_and_is_repeatable(way, small, long_way, by_classes, unseen):
    algorithm = small() if way == "short" else small(long_way)
    before, torch_state, numpy_state = trace(algorithm), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (verdict(unseen)(algorithm, by_classes, CPU) for _ in range(2))
    assert trace(algorithm) == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.is_grad_enabled()
    assert timeless(first) == timeless(second)
    assert list(first) == verdict(unseen).keys(algorithm) == verdict(unseen).keys()


def timeless(scores: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in scores.items() if not key.startswith("time/")}


def test_its_tasks_and_the_algorithms_scores_equal_those_of_few_shot(small, by_classes, unseen):
    evaluator, few_shot = verdict(unseen), FewShot(SMALL["settings"], 4, 40, 0, 7)
    ours, theirs = evaluator.protocol(by_classes), few_shot.protocol(unseen)
    for setting in SMALL["settings"]:
        assert ours["settings"][setting] == theirs["settings"][setting]
    found, expected = evaluator(small(), by_classes, CPU), few_shot(small(), unseen, CPU)
    for key, value in expected.items():
        assert found[f"fashion_mnist/{key}"] == value


def test_its_manifest_holds_these_tasks(tmp_path, by_classes, unseen):
    FewShot(SMALL["settings"], 4, 40, 0, 7).write_manifest(tmp_path, unseen)
    verdict(unseen).write_manifest(tmp_path, by_classes)
    names = ("tasks.safetensors", "tasks_fashion_mnist.safetensors")
    files = [safe_open(tmp_path / name, "pt") for name in names]
    assert set(files[0].keys()) == set(files[1].keys())
    assert all(torch.equal(files[0].get_tensor(key), files[1].get_tensor(key)) for key in files[0].keys())  # noqa: SIM118


def test_differences_are_paired_and_the_main_one_is_to_the_strongest_baseline(small, by_classes, unseen):
    evaluator = verdict(unseen)
    own, found = {}, {}

    def compared(setting, ours, theirs):
        own[setting], found[setting] = ours[""], theirs
        return type(evaluator)._compared(evaluator, setting, ours, theirs)

    evaluator._compared = compared
    scores = evaluator(small(), by_classes, CPU)
    for setting in SMALL["settings"]:
        assert tuple(found[setting]) == BASELINES
        for name, theirs in found[setting].items():
            pairs = [ours - other for ours, other in zip(own[setting].tolist(), theirs.tolist(), strict=False)]
            prefix = f"fashion_mnist/paired/{setting}/{name}"
            assert len(pairs) == (4 if name == "from_scratch" else 40)
            assert scores[f"{prefix}/difference"] == pytest.approx(statistics.mean(pairs), abs=1e-12)
            assert scores[f"{prefix}/ci95"] == pytest.approx(interval(torch.tensor(pairs, dtype=torch.float64)))
            assert scores[f"fashion_mnist/verdict/{setting}/{name}/top1"] == pytest.approx(theirs.mean().item())
        strongest = strongest_baseline(own[setting], found[setting])
        for score in ("difference", "ci95"):
            headline = scores[f"fashion_mnist/paired/{setting}/{score}"]
            assert headline == scores[f"fashion_mnist/paired/{setting}/{strongest}/{score}"]


def by_task(unseen: Splits, setting: str):
    """Indices of support and query, and the labels of both."""
    evaluator = verdict(unseen)
    tasks = evaluator.tasks(next(one for one in evaluator.tasks.settings if one.name == setting))
    return zip(tasks.support, tasks.query, tasks.support_labels, tasks.query_labels, strict=True)


@pytest.mark.parametrize("setting", SMALL["settings"])
def test_the_untrained_encoder_has_new_weights_and_compares_class_means(setting, small, by_classes, unseen):
    algorithm = small()
    with torch.no_grad(), torch.random.fork_rng():
        fresh = initialised_anew(algorithm.eval_encoder(), randomness.number(0, "verdict/untrained", 0))
        features = F.normalize(fresh(unseen.test.images), dim=1).double()
    assert not torch.equal(fresh.backbone[0].weight, algorithm.eval_encoder().backbone[0].weight)
    right = []
    for support, query, labels, expected in by_task(unseen, setting):
        means = torch.stack([features[support[labels == label]].mean(dim=0) for label in range(3)])
        right.append((torch.cdist(features[query], means).argmin(dim=1) == expected).double().mean().item())
    found = verdict(unseen)(algorithm, by_classes, CPU)[f"fashion_mnist/verdict/{setting}/untrained/top1"]
    assert found == pytest.approx(statistics.mean(right), abs=2e-3)


def test_the_source_classifier_is_adam_on_shuffled_batches(small, by_classes):
    encoder, source = small().eval_encoder(), by_classes.train
    fitted = SourceClassifier(steps=31, batch_size=30, lr=0.01)
    with torch.random.fork_rng():
        found = fitted.train(encoder, source, 0, CPU)
        network = nn.Sequential(
            initialised_anew(encoder, randomness.number(0, "verdict/supervised/weights", 0)), zero_head(128, 5, CPU)
        ).train()
        network.to(memory_format=torch.channels_last)  # dropout draws in the order of memory
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for step in range(31):
            epoch, place = divmod(step, len(source) // 30)
            order = randomness.permutation(0, "verdict/supervised/order", epoch, len(source))
            rows = torch.from_numpy(order)[30 * place : 30 * place + 30]
            torch.manual_seed(randomness.number(0, "verdict/supervised/network", step))
            optimizer.param_groups[0]["lr"] = 0.01 * (1 + np.cos(np.pi * step / 31)) / 2
            optimizer.zero_grad()
            F.cross_entropy(network(source.images[rows]), source.labels[rows]).backward()
            optimizer.step()
    assert len(source) // 30 < 31, "there was a second pass"
    for name, value in network[0].state_dict().items():
        assert torch.allclose(found.state_dict()[name], value, atol=1e-5), name


def test_a_source_classifier_learns_the_source(small, by_classes):
    with torch.random.fork_rng():
        encoder = SourceClassifier(steps=60, batch_size=64, lr=0.01).train(
            small().eval_encoder(), by_classes.train, 0, CPU
        )
    assert not encoder.training
    with torch.no_grad():
        features = encoder(by_classes.train.images)
    means = torch.stack([features[by_classes.train.labels == label].mean(dim=0) for label in range(5)])
    right = torch.cdist(features, means).argmin(dim=1) == by_classes.train.labels
    assert right.double().mean() > 0.95


@pytest.mark.parametrize("setting", SMALL["settings"])
def test_the_supervised_baseline_is_ridge_on_features_standardised_by_the_source(setting, small, by_classes, unseen):
    algorithm, source = small(), by_classes.train
    with torch.random.fork_rng():
        encoder = SourceClassifier(6, 32, 0.01).train(algorithm.eval_encoder(), source, 0, CPU)
        features = standardised(encoder, unseen.test, source, CPU).numpy()
    with torch.no_grad():
        gallery, judged = encoder(source.images).numpy(), encoder(unseen.test.images).numpy()
    varies = gallery.std(axis=0) > 1e-4
    expected = ((judged - gallery.mean(axis=0)) / gallery.std(axis=0).clip(1e-9))[:, varies]
    assert np.allclose(features[:, varies], expected, atol=1e-3)
    right = []
    for support, query, labels, expected in by_task(unseen, setting):
        images = features[support].astype(np.float64)
        strength = 0.3 * np.square(images - images.mean(axis=0)).sum(axis=1).mean()
        head = Ridge(alpha=strength, solver="svd").fit(images, np.eye(3)[labels])
        right.append(np.mean(head.predict(features[query]).argmax(axis=1) == expected.numpy()))
    found = verdict(unseen)(algorithm, by_classes, CPU)[f"fashion_mnist/verdict/{setting}/supervised/top1"]
    assert found == pytest.approx(statistics.mean(right), abs=2e-3)


@pytest.mark.parametrize("setting", SMALL["settings"])
def test_from_scratch_is_adam_on_the_support_of_each_task(setting, small, by_classes, unseen):
    algorithm = small()
    encoder = algorithm.eval_encoder()
    encoder.backbone[3].p = 0.0  # dropout draws
    right = []
    for number, (support, query, labels, expected) in enumerate(by_task(unseen, setting)):
        if number == 4:
            break
        with torch.random.fork_rng():
            fresh = initialised_anew(encoder, randomness.number(0, "verdict/from_scratch", number))
        # Adam makes steps of rounding errors: of the bias before batch normalisation, whose gradient is nothing else
        network = nn.Sequential(fresh, zero_head(128, 3, CPU)).train().to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network(unseen.test.images[support]), labels).backward()
            optimizer.step()
        with torch.no_grad():
            scores = network.eval()(unseen.test.images[query])
        right.append((scores.argmax(dim=1) == expected).double().mean().item())
    scores = verdict(unseen)(algorithm, by_classes, CPU)
    assert scores[f"fashion_mnist/verdict/{setting}/from_scratch/top1"] == pytest.approx(statistics.mean(right))


def test_training_from_scratch_fits_its_support(small, unseen):
    images = unseen.test.images[:12]
    labels = torch.arange(3).repeat(4)
    with torch.random.fork_rng():
        encoder = initialised_anew(small().eval_encoder(), 0)
        scores = FromScratch(steps=60, lr=0.01).classify(encoder, images, labels, images, 3)
    assert (scores.argmax(dim=1) == labels).all()


def test_chance_is_one_over_the_ways(small, by_classes, unseen):
    scores = verdict(unseen)(small(), by_classes, CPU)
    assert scores["fashion_mnist/verdict/3w1s/chance/top1"] == pytest.approx(1 / 3)
    difference = scores["fashion_mnist/few_shot/3w1s/top1"] - 1 / 3
    assert scores["fashion_mnist/paired/3w1s/chance/difference"] == pytest.approx(difference)
    own = scores["fashion_mnist/few_shot/3w1s/ci95"]
    assert scores["fashion_mnist/paired/3w1s/chance/ci95"] == pytest.approx(own)


def test_durations_are_kept_apart_from_scores(small, by_classes, unseen):
    scores = verdict(unseen)(small(), by_classes, CPU)
    times = {key: value for key, value in scores.items() if key.startswith("time/")}
    ways = [f"{setting}{way}" for setting in SMALL["settings"] for way in ("", "/from_scratch")]
    assert list(times) == [f"time/fashion_mnist/adaptation_ms/{way}" for way in ways]
    assert all(value > 0 for value in times.values())


def test_further_ways_to_classify_are_scored_and_the_configured_one_runs_once(small, long_way, by_classes, unseen):
    asked = []

    class Ways(long_way):
        def classify(self, *arguments):
            asked.append("configured")
            return super().classify(*arguments)

        @property
        def classifiers(self):
            return ("own", "constant")

        def classify_by_all(self, support_images, support_labels, query_images, n_way):
            own = self.classify(support_images, support_labels, query_images, n_way)
            constant = F.one_hot(torch.zeros(query_images.shape[:2], dtype=torch.int64), n_way).float()
            return {"": own, "own": own, "constant": constant}

    plain, several = (verdict(unseen)(small(kind), by_classes, CPU) for kind in (long_way, Ways))
    assert list(several) == verdict(unseen).keys(small(Ways))
    assert several["fashion_mnist/few_shot/3w1s/own/top1"] == plain["fashion_mnist/few_shot/3w1s/top1"]
    assert several["fashion_mnist/few_shot/3w1s/constant/top1"] == pytest.approx(1 / 3)
    assert len(asked) == 2 * (6 + 21)  # chunks of 7 of 40 tasks; 20 timed ones and one before


def test_the_protocol_is_plain_and_names_source_tasks_and_recipes(by_classes, unseen):
    found = verdict(unseen).protocol(by_classes)
    assert json.loads(json.dumps(found)) == found
    assert (found["name"], found["source"], found["trained_on"]) == (
        "fashion_mnist",
        "fashion_mnist/test",
        "digits/train",
    )
    assert found["fingerprint"] == unseen.test.fingerprint
    assert (found["classes"], found["episodes"], found["seed"]) == ("unseen", 40, 0)
    assert tuple(found["baselines"]) == BASELINES
    assert found["baselines"]["from_scratch"]["episodes"] == 4
    assert "6 steps of Adam" in found["baselines"]["supervised"]["recipe"]
    assert "conservative" in found["paired"]


def test_images_that_may_have_been_trained_on_are_refused(by_classes, unseen):
    for splits in (unseen, replace(by_classes, validation=unseen.test)):
        with pytest.raises(ConfigError, match="this run trains on fashion_mnist, so the images are not unseen"):
            verdict(unseen).check(None, splits, CPU)
    torchvisions = replace(by_classes.train, name="FashionMNIST/train")
    with pytest.raises(ConfigError, match="this run trains on FashionMNIST"):
        verdict(unseen).check(None, replace(by_classes, train=torchvisions), CPU)


def test_a_source_of_a_mixture_is_refused_too(by_classes, unseen):
    seen = ("mnist", "fashion_mnist")
    splits = replace(by_classes, train=replace(by_classes.train, name="one+two/train", seen=seen))
    with pytest.raises(ConfigError, match="this run trains on fashion_mnist"):
        verdict(unseen).check(None, splits, CPU)


def test_a_clustered_dataset_is_refused_and_its_episodes_say_seen(by_classes, unseen):
    clusters = replace(by_classes.train, name="fashion_mnist clustered by features/train", seen=("fashion_mnist",))
    splits = replace(by_classes, train=clusters)
    with pytest.raises(ConfigError, match="this run trains on fashion_mnist"):
        verdict(unseen).check(None, splits, CPU)
    assert few_shot_protocol(unseen, splits)["classes"] == "seen"
    assert few_shot_protocol(unseen, by_classes)["classes"] == "unseen"


def test_the_training_data_of_the_encoder_behind_the_clusters_is_refused(by_classes, unseen):
    clusters = replace(by_classes.train, name="digits clustered by features/train", seen=("mnist", "fashion_mnist"))
    splits = replace(by_classes, train=clusters)
    with pytest.raises(ConfigError, match="this run trains on fashion_mnist"):
        verdict(unseen).check(None, splits, CPU)
    assert few_shot_protocol(unseen, splits)["classes"] == "seen"


def few_shot_protocol(unseen: Splits, splits: Splits):
    return FewShot(["5w1s"], 5, 4, 0, 2, unseen).protocol(splits)


def test_images_of_another_shape_are_refused_with_the_remedy(small, by_classes, unseen):
    gray = unseen.test.images
    color = replace(unseen, test=replace(unseen.test, images=F.pad(gray, (2, 2, 2, 2)).repeat(1, 3, 1, 1)))
    remedy = (
        r"3 x 12 x 12, but the encoder takes 1 x 8 x 8; "
        r"set eval\.verdict\.dataset\.size=8 eval\.verdict\.dataset\.channels=1"
    )
    for algorithm in (None, small()):
        with pytest.raises(ConfigError, match=remedy):
            verdict(color).check(algorithm, by_classes, CPU)


def test_tasks_or_encoders_that_cannot_be_used_are_reported_before_training(small, long_way, by_classes, unseen):
    with pytest.raises(
        ConfigError, match=r"n_way=11, but split 'test' of fashion_mnist has 10 classes; .*eval\.verdict"
    ):
        verdict(unseen, settings=["11w1s"]).check(None, by_classes, CPU)
    with pytest.raises(ValueError, match="digits/train has no labels"):
        verdict(unseen).check(None, replace(by_classes, train=replace(by_classes.train, labels=None)), CPU)

    class FiveOutputs(long_way):
        def classify(self, support, labels, query, n_way):
            return torch.zeros(*query.shape[:2], 5)

    with pytest.raises(ValueError, match=r"FiveOutputs.classify returned \(1, 3, 5\); expected"):
        verdict(unseen).check(small(FiveOutputs), by_classes, CPU)
    algorithm = small()
    algorithm.eval_encoder().backbone.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match=r"backbone\.scale of the encoder belongs to a class without reset_parameters"):
        verdict(unseen).check(algorithm, by_classes, CPU)


def test_a_check_changes_nothing(small, by_classes, unseen):
    algorithm = small()
    before, state = trace(algorithm), torch.get_rng_state()
    verdict(unseen).check(algorithm, by_classes, CPU)
    assert trace(algorithm) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 1}, "at least 2"),
        ({"scratch_episodes": 1}, "at least 2"),
        ({"settings": []}, "is empty"),
        ({"settings": ["3w1s", "3w1s"]}, "repeats a setting"),
        ({"settings": ["3w"]}, "ways and shots"),
        ({"n_query": 0}, "at least 1"),
        ({"ridge": 0.0}, "above 0"),
        ({"supervised_steps": 0}, "at least 1 step"),
        ({"scratch_lr": 0.0}, "above 0"),
        ({"seed": -1}, "give a number in"),
    ],
)
def test_senseless_settings_are_refused(change, message, unseen):
    with pytest.raises(ValueError, match=message):
        verdict(unseen, **change)


def test_with_fewer_episodes_than_scratch_episodes_all_are_learned_from_scratch(by_classes, unseen):
    found = verdict(unseen, episodes=3).protocol(by_classes)
    assert found["baselines"]["from_scratch"]["episodes"] == 3


def test_it_runs_once_and_two_with_the_same_scores_are_reported_before_training(by_classes, unseen):
    evaluators = {"few_shot": FewShot(["5w1s"], 3, 10, 0, 8), "verdict": verdict(unseen)}
    assert list(asked_again(evaluators)) == ["few_shot"]
    check_evaluators(evaluators, None, by_classes, CPU)
    message = "eval.other and eval.verdict both return fashion_mnist/few_shot/3w1s/top1"
    with pytest.raises(ConfigError, match=message):
        check_evaluators(evaluators | {"other": copy.copy(evaluators["verdict"])}, None, by_classes, CPU)


def test_it_scores_the_same_alone_and_with_another_evaluator(small, by_classes, unseen):
    algorithm, evaluators = small(), {"few_shot": FewShot(["5w1s"], 3, 10, 0, 8), "verdict": verdict(unseen)}
    together = evaluate(evaluators, algorithm, by_classes, CPU)
    assert timeless(together).items() >= timeless(verdict(unseen)(algorithm, by_classes, CPU)).items()


def test_the_option_sets_every_argument():
    node = yaml.safe_load((conf_folder() / "eval" / "verdict.yaml").read_text())
    assert node.keys() == {"_target_", "dataset", *SMALL}
    dataset = yaml.safe_load((conf_folder() / "dataset" / "cifar10.yaml").read_text())
    assert node["dataset"].keys() == dataset.keys()
    assert (node["dataset"]["size"], node["dataset"]["channels"], node["dataset"]["split"]) == (28, 1, "images")
    assert (node["settings"], node["episodes"], node["n_query"]) == (["5w1s", "5w5s"], 1000, 15)
