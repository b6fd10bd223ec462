"""Several classifiers on the same episodes: their keys, their paired differences, and what is refused."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.augmentation import Augmentation, PadCrop
from ssl_runner.evaluation import answers
from ssl_runner.evaluation.classifiers.centroid import Centroid
from ssl_runner.evaluation.classifiers.fine_tuning import SupportFineTuning
from ssl_runner.evaluation.classifiers.logistic import Logistic
from ssl_runner.evaluation.classifiers.pt_map import PTMap
from ssl_runner.evaluation.classifiers.simple_shot import SimpleShot
from ssl_runner.evaluation.classifiers.tim import Tim, TimAdm
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.paired import difference
from ssl_runner.evaluation.raw_pixels import RawPixels

CPU = torch.device("cpu")
CROP = Augmentation({"crop": PadCrop(1)})
CLASSIFIERS = {
    "centroid": Centroid(),
    "simple_shot": SimpleShot(),
    "logistic": Logistic(1.0),
    "fine_tuning": SupportFineTuning(2, 0.001, None, CROP),
    "tim": Tim(1000, 0.0001, 15.0, 0.1, 0.1),
    "tim_adm": TimAdm(10, 15.0, 0.1, 0.1),
    "pt_map": PTMap(0.5, 10.0, 0.2, 5, 50),
}


def few_shot(classifier=None, settings=("3w2s",), episodes=12, classifiers=CLASSIFIERS, dataset=None) -> FewShot:
    return FewShot(list(settings), 4, episodes, 0, 5, dataset, classifier, classifiers)


class TwoWays(RawPixels):
    """Adapts in its own way, and has a further one."""

    @property
    def classifiers(self):
        return ("constant",)

    def classify_by_all(self, support_images, support_labels, query_images, n_way):
        zeros = torch.zeros(query_images.shape[:2], dtype=torch.int64)
        own = self.classify(support_images, support_labels, query_images, n_way)
        return {"": own, "constant": F.one_hot(zeros, n_way).float()}

    def classify(self, *task):
        return super().classify(*task)


@pytest.mark.parametrize("classifier", [None, "own", ["own"]])
def test_without_a_choice_the_algorithm_classifies_in_its_own_way_and_keys_are_as_ever(classifier, by_images):
    evaluator, plain = few_shot(classifier), FewShot(["3w2s"], 4, 12, 0, 5)
    for algorithm in (RawPixels((1, 8, 8)), TwoWays((1, 8, 8))):
        found = evaluator(algorithm, by_images, CPU)
        assert found == plain(algorithm, by_images, CPU)
        assert list(found) == evaluator.keys(algorithm) == plain.keys(algorithm)
    assert evaluator.protocol(by_images) == plain.protocol(by_images)
    assert "classifiers" not in plain.protocol(by_images)


def test_one_classifier_stands_in_the_place_of_the_algorithms_own(small, long_way, by_images):
    found = few_shot("centroid")(small(), by_images, CPU)
    assert list(found) == ["few_shot/3w2s/centroid/top1", "few_shot/3w2s/centroid/ci95"]
    own = few_shot()(small(), by_images, CPU)
    assert list(found.values()) == pytest.approx(list(own.values()), abs=1e-3)
    assert few_shot("centroid")(small(long_way), by_images, CPU) == found  # whatever the algorithm


def test_several_are_paired_with_the_first_on_the_same_episodes(small, by_images):
    names = ["logistic", "own", "tim_adm", "pt_map", "simple_shot", "fine_tuning"]
    evaluator = few_shot(names, ["3w2s", "5w1s"], 15)
    with answers.kept() as kept:
        found = evaluator(small(), by_images, CPU)
    assert list(found) == evaluator.keys(small())
    ways = ["logistic", "", "tim_adm_transductive", "pt_map_transductive", "simple_shot", "fine_tuning"]
    for setting in ("3w2s", "5w1s"):
        first = kept[f"few_shot/{setting}/logistic"]
        for way in ways:
            key = f"few_shot/{setting}/{way}".rstrip("/")
            assert kept[key].shape == (15,)
            assert found[f"{key}/top1"] == pytest.approx(kept[key].mean().item())
            if way == "logistic":
                assert not any(one.startswith(f"{key}/minus") for one in found)
                continue
            expected = difference(kept[key], first)
            assert found[f"{key}/minus_logistic/difference"] == pytest.approx(expected["difference"])
            assert found[f"{key}/minus_logistic/ci95"] == pytest.approx(expected["ci95"])
            mean = found[f"{key}/top1"] - found[f"few_shot/{setting}/logistic/top1"]
            assert found[f"{key}/minus_logistic/difference"] == pytest.approx(mean)
    assert (
        evaluator.protocol(by_images)["settings"]
        == few_shot(None, ["3w2s", "5w1s"], 15).protocol(by_images)["settings"]
    )


def test_alone_or_beside_others_a_classifier_has_the_same_figures(small, by_images):
    together = few_shot(["centroid", "tim_adm", "fine_tuning"])(small(), by_images, CPU)
    for name in ("centroid", "tim_adm", "fine_tuning"):
        assert few_shot(name)(small(), by_images, CPU).items() <= together.items()


def test_the_algorithms_further_ways_are_reported_with_its_own_and_only_the_chosen_are_compared(by_images):
    evaluator, algorithm = few_shot(["centroid", "own"]), TwoWays((1, 8, 8))
    found = evaluator(algorithm, by_images, CPU)
    assert list(found) == evaluator.keys(algorithm)
    assert [key.removeprefix("few_shot/3w2s/") for key in found] == [
        *("centroid/top1", "centroid/ci95"),
        *("top1", "ci95", "minus_centroid/difference", "minus_centroid/ci95"),
        *("constant/top1", "constant/ci95"),
    ]
    assert found["few_shot/3w2s/constant/top1"] == pytest.approx(1 / 3)
    first = few_shot(["own", "centroid"]).keys(algorithm)
    assert "few_shot/3w2s/centroid/minus_own/difference" in first and "few_shot/3w2s/minus_own/difference" not in first


def test_the_protocol_names_each_classifier_as_its_keys_do_with_its_values(by_images):
    protocol = few_shot(["own", "centroid", "tim"]).protocol(by_images)
    assert json.loads(json.dumps(protocol)) == protocol
    assert list(protocol["classifiers"]) == ["own", "centroid", "tim_transductive"]
    assert "1,000 steps of Adam, learning rate 0.0001" in protocol["classifiers"]["tim_transductive"]


def test_the_number_of_tasks_per_batch_changes_nothing(small, by_images):
    names = ["centroid", "fine_tuning", "tim_adm"]
    found = [FewShot(["3w1s"], 4, 12, 0, size, None, names, CLASSIFIERS)(small(), by_images, CPU) for size in (1, 5)]
    assert found[0] == pytest.approx(found[1], abs=0.01)


def test_on_another_dataset_keys_begin_with_its_name(by_images, by_classes):
    evaluator = few_shot(["centroid", "pt_map"], dataset=by_classes)
    assert evaluator.keys()[-2:] == [
        f"digits/few_shot/3w2s/pt_map_transductive/minus_centroid/{score}" for score in ("difference", "ci95")
    ]


def test_algorithm_and_generators_stay_as_they_were(small, by_images):
    algorithm, evaluator = small(), few_shot(["centroid", "tim_adm", "fine_tuning", "simple_shot"])
    before, state = copy.deepcopy(algorithm.state_dict()), torch.get_rng_state()
    modes = [part.training for part in algorithm.modules()]
    found = evaluator(algorithm, by_images, CPU)
    assert evaluator(algorithm, by_images, CPU) == found
    assert all(torch.equal(value, before[name]) for name, value in algorithm.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in algorithm.modules()] == modes
    assert all(one.requires_grad and one.grad is None for one in algorithm.parameters())
    assert torch.is_grad_enabled()


def test_a_check_classifies_in_few_steps_and_encodes_few_images(small, by_images, monkeypatch):
    algorithm, seen, steps = small(), [], []
    algorithm.eval_encoder().register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    monkeypatch.setattr(Tim, "loss", lambda self, weights, *_: steps.append(0) or weights.sum())
    few_shot(["simple_shot", "tim"]).check(algorithm, by_images, CPU)
    assert len(steps) == 1
    assert sum(seen) < 50


def test_what_a_classifier_refuses_is_known_before_training(small, by_images):
    layers = CLASSIFIERS | {"fine_tuning": SupportFineTuning(2, 0.001, 1, CROP)}
    with pytest.raises(
        ValueError,
        match=r"^eval\.few_shot\.classifiers\.fine_tuning\.layers=1, but Backbone does not say which layers it has",
    ):
        few_shot("fine_tuning", classifiers=layers).check(small(), by_images, CPU)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        ("tmi", r"eval\.few_shot\.classifier: there is no classifier 'tmi'; did you mean 'tim'\?"),
        (["centroid", "simpleshot"], r"'simpleshot'; did you mean 'simple_shot'\?"),
        ("qqq", "'qqq'; there are own, centroid, simple_shot, logistic, fine_tuning, tim, tim_adm, pt_map"),
        (["tim", "tim"], r"classifier=\['tim', 'tim'\] repeats a name"),
        ([], r"classifier=\[\] is empty; give null for the algorithm's own"),
    ],
)
def test_a_wrong_choice_is_refused_with_the_nearest_name(classifier, message):
    with pytest.raises(ValueError, match=message):
        few_shot(classifier)


def test_what_is_no_classifier_is_refused_and_null_is_left_out():
    with pytest.raises(ValueError, match=r"eval\.few_shot\.classifiers\.mine is a PadCrop, expected a TaskClassifier"):
        few_shot("mine", classifiers={"mine": PadCrop(1)})
    with pytest.raises(ValueError, match="there is no classifier 'tim'"):
        few_shot("tim", classifiers=CLASSIFIERS | {"tim": None})


def test_meta_learned_encoders_are_classified_by_their_features(by_images):
    """Whatever `classify` is, a classifier uses `eval_encoder` only."""

    class Broken(RawPixels):
        def classify(self, *task):
            raise AssertionError("not its own way")

    assert type(Broken((1, 8, 8))).classify is not Algorithm.classify
    assert few_shot(["centroid", "logistic"])(Broken((1, 8, 8)), by_images, CPU)
