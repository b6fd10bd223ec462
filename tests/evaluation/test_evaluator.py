"""Properties of every evaluator: it has no side effects, and its protocol is plain data."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ssl_runner.config.building import build
from ssl_runner.data.augmentation import Augmentation, PadCrop
from ssl_runner.evaluation.evaluator import evaluate
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.fine_tuning import FineTuning
from ssl_runner.evaluation.knn import KNN
from ssl_runner.evaluation.linear_probe import LinearProbe
from ssl_runner.runtime.no_download import no_download

CPU = torch.device("cpu")
CONF = Path(__file__).parents[2] / "conf" / "eval"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))
OF_A_DATASET = {"verdict"}  # of their own, by whose name their scores go


def of_frozen_features() -> dict:
    return {
        "knn": KNN(20, 0.1),
        "linear_probe": LinearProbe([0.1, 0.01], 300, 1.0),
        "linear_probe_10pct": LinearProbe([0.1, 0.01], 300, 0.1),
        "few_shot": FewShot(["5w1s"], 3, 20, 0, 8),
    }


def evaluators() -> dict:
    crop = Augmentation({"crop": PadCrop(1)})
    return {**of_frozen_features(), "fine_tuning_10pct": FineTuning(0.1, 2, 32, 0.05, 1.0, 0.0, crop)}


EVALUATORS = list(evaluators())


def trace(algorithm) -> tuple:
    """Parameters and buffers by content, modes and gradients."""
    digest = hashlib.sha256()
    for name, tensor in algorithm.state_dict(keep_vars=True).items():
        digest.update(name.encode() + tensor.detach().numpy().tobytes())
    modes = [part.training for part in algorithm.modules()]
    gradients = [(parameter.requires_grad, parameter.grad) for parameter in algorithm.parameters()]
    return digest.hexdigest(), modes, gradients


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("splits", ["by_images", "by_classes"])
@pytest.mark.parametrize("way", ["short", "long"])
def test_an_evaluator_leaves_algorithm_and_generators_as_they_were(name, splits, way, small, long_way, request):
    algorithm = small() if way == "short" else small(long_way)
    before, torch_state, numpy_state = trace(algorithm), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = evaluators()[name](algorithm, request.getfixturevalue(splits), CPU)
    assert trace(algorithm) == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.is_grad_enabled()
    assert evaluators()[name](algorithm, request.getfixturevalue(splits), CPU) == first


def test_the_mode_of_the_algorithm_does_not_change_its_scores(small, by_images):
    training, evaluated = small(), small().eval()
    assert evaluate(evaluators(), training, by_images, CPU) == evaluate(evaluators(), evaluated, by_images, CPU)


def test_scores_are_merged_and_are_fractions(small, by_images):
    scores = evaluate(evaluators(), small(), by_images, CPU)
    assert list(scores) == [
        "knn/top1",
        "linear_probe/top1",
        "linear_probe/regularisation",
        "linear_probe_10pct/top1",
        "linear_probe_10pct/regularisation",
        "few_shot/5w1s/top1",
        "few_shot/5w1s/ci95",
        "fine_tuning_10pct/top1",
    ]
    assert list(scores) == [key for evaluator in evaluators().values() for key in evaluator.keys()]  # noqa: SIM118
    assert all(type(score) is float and 0 <= score <= 1 for score in scores.values())


def test_evaluators_score_the_same_together_as_alone_in_any_order(small, by_images):
    algorithm = small()
    alone = {key: score for each in evaluators().values() for key, score in each(algorithm, by_images, CPU).items()}
    assert evaluate(evaluators(), algorithm, by_images, CPU) == alone
    assert evaluate(dict(reversed(evaluators().items())), algorithm, by_images, CPU) == alone


def test_evaluators_of_frozen_features_encode_each_image_once(small, by_images):
    algorithm, seen = small(), []
    algorithm.eval_encoder().register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    evaluate(of_frozen_features(), algorithm, by_images, CPU)
    assert sum(seen) == 1797


def test_new_weights_are_evaluated_again(small, by_images):
    algorithm = small()
    before = evaluate({"knn": KNN(20, 0.1)}, algorithm, by_images, CPU)
    with torch.no_grad():
        algorithm.network.encoder.backbone[1].weight.zero_()
        algorithm.network.encoder.backbone[1].bias.fill_(1.0)
    after = evaluate({"knn": KNN(20, 0.1)}, algorithm, by_images, CPU)
    assert after["knn/top1"] < 0.2 < before["knn/top1"]


def test_a_key_given_twice_is_refused(small, by_images):
    with pytest.raises(ValueError, match=r"eval\.other returns \['knn/top1'\] a second time"):
        evaluate({"knn": KNN(20, 0.1), "other": KNN(200, 0.1)}, small(), by_images, CPU)


@pytest.mark.parametrize("name", EVALUATORS)
def test_a_dataset_without_labels_is_refused(name, small, by_images):
    unlabelled = replace(by_images, test=replace(by_images.test, labels=None))
    with pytest.raises(ValueError, match="digits/test has no labels"):
        evaluators()[name](small(), unlabelled, CPU)


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("splits", ["by_images", "by_classes"])
def test_a_protocol_is_plain_json_data(name, splits, request):
    found = evaluators()[name].protocol(request.getfixturevalue(splits))
    assert json.loads(json.dumps(found)) == found


# other values of an evaluator, in whose place they stand
ELSEWHERE = ("cifar10", "omniglot", "crop_diseases", "eurosat", "isic", "chestx")
PRESETS = {"fine_tuning_vit": "fine_tuning", "fine_tuning_vit_10pct": "fine_tuning_10pct"}


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in OF_A_DATASET])
def test_each_option_sets_every_argument_and_its_scores_have_its_name(name):
    text = (CONF / f"{name}.yaml").read_text()
    name = PRESETS.get(name, name)
    assert text.startswith(f"# @package eval.{name}\n")
    content = yaml.safe_load(text)
    content.pop("defaults", None)  # the classifiers that few_shot can choose
    with no_download():
        evaluator = build(content, f"eval.{name}")
    # few_shot_cifar10 gives cifar10/few_shot/...
    dataset = next((one for one in ELSEWHERE if name.endswith(f"_{one}")), None)
    prefix = f"{name}/" if dataset is None else f"{dataset}/{name.removesuffix(f'_{dataset}')}/"
    assert all(key.startswith(prefix) for key in evaluator.keys())  # noqa: SIM118


def test_there_is_an_option_for_each_evaluator_and_for_each_share_of_the_labels():
    assert OPTIONS == [
        "attentive_probe",
        "attentive_probe_10pct",
        "few_shot",
        "few_shot_chestx",
        "few_shot_cifar10",
        "few_shot_crop_diseases",
        "few_shot_eurosat",
        "few_shot_isic",
        "few_shot_omniglot",
        "fine_tuning",
        "fine_tuning_10pct",
        "fine_tuning_1pct",
        "fine_tuning_cifar10",
        "fine_tuning_vit",
        "fine_tuning_vit_10pct",
        "knn",
        "knn_10pct",
        "knn_cifar10",
        "knn_patches",
        "linear_probe",
        "linear_probe_10pct",
        "linear_probe_1pct",
        "linear_probe_cifar10",
        "linear_probe_patches",
        "verdict",
    ]
