"""What holds of every evaluator: it leaves no trace, and its protocol is plain data."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ssl_runner.evaluation.evaluator import evaluate
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.knn import KNN
from ssl_runner.evaluation.linear_probe import LinearProbe

CPU = torch.device("cpu")


def evaluators() -> dict:
    return {
        "knn": KNN(20, 0.1),
        "linear_probe": LinearProbe([0.1, 0.01], 300),
        "few_shot": FewShot(["5w1s"], 3, 20, 0, 8),
    }


def trace(algorithm) -> tuple:
    """Parameters and buffers by content, modes and gradients."""
    digest = hashlib.sha256()
    for name, tensor in algorithm.state_dict(keep_vars=True).items():
        digest.update(name.encode() + tensor.detach().numpy().tobytes())
    modes = [part.training for part in algorithm.modules()]
    gradients = [(parameter.requires_grad, parameter.grad) for parameter in algorithm.parameters()]
    return digest.hexdigest(), modes, gradients


@pytest.mark.parametrize("name", ["knn", "linear_probe", "few_shot"])
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
        "few_shot/5w1s/top1",
        "few_shot/5w1s/ci95",
    ]
    assert all(type(score) is float and 0 <= score <= 1 for score in scores.values())


def test_together_they_score_as_they_do_alone_and_encode_each_image_once(small, by_images):
    algorithm, seen = small(), []
    alone = {key: score for each in evaluators().values() for key, score in each(algorithm, by_images, CPU).items()}
    algorithm.eval_encoder().register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    assert evaluate(evaluators(), algorithm, by_images, CPU) == alone
    assert sum(seen) == 1797


def test_new_weights_are_evaluated_anew(small, by_images):
    algorithm = small()
    before = evaluate({"knn": KNN(20, 0.1)}, algorithm, by_images, CPU)
    with torch.no_grad():
        algorithm.network.encoder.backbone[1].weight.zero_()
        algorithm.network.encoder.backbone[1].bias.fill_(1.0)
    after = evaluate({"knn": KNN(20, 0.1)}, algorithm, by_images, CPU)
    assert after["knn/top1"] < 0.2 < before["knn/top1"]


def test_a_key_given_twice_is_refused(small, by_images):
    with pytest.raises(ValueError, match=r"eval\.other gives \['knn/top1'\] a second time"):
        evaluate({"knn": KNN(20, 0.1), "other": KNN(200, 0.1)}, small(), by_images, CPU)


@pytest.mark.parametrize("name", ["knn", "linear_probe", "few_shot"])
def test_a_dataset_without_labels_is_refused(name, small, by_images):
    unlabelled = replace(by_images, test=replace(by_images.test, labels=None))
    with pytest.raises(ValueError, match="digits/test has no labels"):
        evaluators()[name](small(), unlabelled, CPU)


@pytest.mark.parametrize("name", ["knn", "linear_probe", "few_shot"])
@pytest.mark.parametrize("splits", ["by_images", "by_classes"])
def test_a_protocol_is_plain_json_data(name, splits, request):
    found = evaluators()[name].protocol(request.getfixturevalue(splits))
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("name", "kind"), [("knn", KNN), ("linear_probe", LinearProbe), ("few_shot", FewShot)])
def test_each_option_holds_every_argument_and_stands_under_its_own_name(name, kind):
    text = (Path(__file__).parents[2] / "conf" / "eval" / f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    assert text.startswith(f"# @package eval.{name}\n")
    assert values.pop("_target_") == f"{kind.__module__}.{kind.__name__}"
    kind(**values)
