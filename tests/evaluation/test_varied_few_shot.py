"""Few-shot evaluation on tasks whose sizes are drawn."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ssl_runner.errors import ConfigError
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.evaluation.setting import VariedSetting, check_asked, of_one_size

CPU = torch.device("cpu")
PINNED = "7b3fbd49a41080b4426f0724bf99acdbb5f3a1ee9a93f9ea3b1da398126bf4aa"  # of ten tasks


def few_shot(settings=("varied",), episodes=40, seed=0, tasks_per_batch=7) -> FewShot:
    return FewShot(list(settings), 4, episodes, seed, tasks_per_batch)


def test_accuracy_equals_a_naive_loop_over_unbalanced_tasks(by_images):
    evaluator, test = few_shot(), by_images.test
    tasks = evaluator.tasks(test)(VariedSetting())
    accuracies = []
    for task in tasks.tasks:
        labels = task.support_labels[0].tolist()
        support = F.normalize(test.images[task.support[0]].flatten(1).double(), dim=1)
        means = [
            torch.stack([image for image, label in zip(support, labels, strict=True) if label == way]).mean(0)
            for way in range(task.n_way)
        ]
        right = [
            min(range(task.n_way), key=lambda way: (F.normalize(image, dim=0) - means[way]).norm().item()) == label
            for image, label in zip(
                test.images[task.query[0]].flatten(1).double(), task.query_labels[0].tolist(), strict=True
            )
        ]
        accuracies.append(np.mean(right))
    found = evaluator(RawPixels((1, 8, 8)), by_images, CPU)
    assert found["few_shot/varied/top1"] == pytest.approx(np.mean(accuracies), abs=1e-9)
    assert found["few_shot/varied/ci95"] == pytest.approx(1.96 * np.std(accuracies, ddof=1) / np.sqrt(40), rel=1e-6)
    assert len({task.n_way for task in tasks.tasks}) == 6  # 5 to 10
    assert any(len(set(task.shots.tolist())) > 1 for task in tasks.tasks)


def test_the_number_of_tasks_per_batch_and_of_episodes_changes_no_task(by_images):
    scores = [few_shot(tasks_per_batch=size)(RawPixels((1, 8, 8)), by_images, CPU) for size in (1, 7)]
    assert scores[0] == scores[1]
    few, more = (few_shot(episodes=n).tasks(by_images.test)(VariedSetting()).tasks for n in (5, 9))
    assert all(one.support.equal(other.support) for one, other in zip(few, more[:5], strict=True))


def test_the_short_way_equals_the_long_way(small, long_way, by_images):
    evaluator = few_shot(["varied", "5w1s"], episodes=20)
    assert evaluator(small(), by_images, CPU) == pytest.approx(evaluator(small(long_way), by_images, CPU), abs=2e-3)


def test_the_protocol_tells_the_limits_and_a_hash_that_depends_on_tasks_and_data(by_images):
    def hashed(evaluator, splits=by_images):
        return evaluator.protocol(splits)["settings"]["varied"]["tasks"]

    described = few_shot().protocol(by_images)
    assert json.loads(json.dumps(described)) == described
    varied = described["settings"]["varied"]
    assert (varied["least_ways"], varied["most_ways"], varied["n_query"], varied["support_size"]) == (5, 50, 10, 500)
    assert hashed(few_shot()) == hashed(few_shot(["5w1s", "varied"], tasks_per_batch=1))
    assert hashed(few_shot()) != hashed(few_shot(seed=1))
    assert hashed(few_shot()) != hashed(few_shot(episodes=41))
    assert hashed(few_shot()) != hashed(few_shot(), replace(by_images, test=replace(by_images.test, fingerprint="x")))
    assert hashed(few_shot(episodes=10)) == PINNED


def test_the_written_tasks_are_those_that_were_classified(by_images, tmp_path):
    evaluator = few_shot(episodes=6)
    evaluator.write_manifest(tmp_path, by_images)
    found = load_file(tmp_path / "tasks.safetensors")
    tasks = evaluator.tasks(by_images.test)(VariedSetting()).tasks
    ways = found["varied/n_way"].tolist()
    assert ways == [task.n_way for task in tasks]
    shots = found["varied/shots"].split(ways)
    support = found["varied/support"].split([int(part.sum()) for part in shots])
    queries = found["varied/n_query"].tolist()
    query = found["varied/query"].split([n * each for n, each in zip(ways, queries, strict=True)])
    for number, task in enumerate(tasks):
        assert shots[number].equal(task.shots.int())
        assert support[number].equal(task.support[0].int())
        assert query[number].equal(task.query[0].int())


class FiveOutputs(RawPixels):
    """Refuses more than five ways, as a head of five outputs does."""

    def __init__(self):
        super().__init__((1, 8, 8))

    def classify(self, support_images, support_labels, query_images, n_way):
        if n_way > 5:
            raise ConfigError([f"five outputs, got {n_way}"])
        return super().classify(support_images, support_labels, query_images, n_way)


def test_too_many_ways_for_a_head_are_found_before_training(by_images):
    with pytest.raises(ConfigError, match="five outputs, got 10"):
        few_shot().check(FiveOutputs(), by_images, CPU)
    few_shot().check(RawPixels((1, 8, 8)), by_images, CPU)


def test_too_few_classes_are_refused_with_settings_that_fit(by_classes):
    test = by_classes.test
    rows = test.labels < 4
    four = replace(test, images=test.images[rows], labels=test.labels[rows], class_names=test.class_names[:4])
    with pytest.raises(ConfigError) as caught:
        few_shot(["varied", "4w1s"]).check(None, replace(by_classes, test=four), CPU)
    problem, remedy = caught.value.problems
    assert problem.endswith("has 4 classes; leave 'varied' out of eval.few_shot.settings")
    assert "set eval.few_shot.settings=[4w1s]" in remedy
    few_shot(["varied"]).check(None, by_classes, CPU)  # five are enough


def test_domains_are_scored_separately(by_images):
    domains = ("even", "odd") * 5
    splits = replace(by_images, test=replace(by_images.test, class_domains=domains))
    evaluator = few_shot(episodes=5)
    assert list(evaluator.protocol(splits)["settings"]) == ["even/varied", "odd/varied"]
    tasks = evaluator.tasks(splits.test)(VariedSetting(), "odd")
    assert (splits.test.labels[tasks.images()] % 2 == 1).all()


def test_a_verdict_compares_tasks_of_one_size_only():
    asked = check_asked("verdict", ["5w1s", "varied"], 15, 10, 0, 1)
    with pytest.raises(
        ValueError, match=r"eval\.verdict\.settings has 'varied', but verdict compares tasks of one size"
    ):
        of_one_size(asked, "verdict")
