"""Few-shot evaluation: fixed tasks, correct intervals, the same answer however it is computed."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file
from scipy import stats

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.building import build
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.errors import ConfigError, NotDownloaded
from ssl_runner.evaluation.contender import Contender
from ssl_runner.evaluation.evaluator import evaluate, selecting
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.paired import interval
from ssl_runner.evaluation.raw_pixels import RawPixels
from ssl_runner.evaluation.setting import Setting
from ssl_runner.runtime.no_download import no_download
from ssl_runner.wiring import wire
from ssl_runner.wiring.compatibility import check_selection

CPU = torch.device("cpu")


def few_shot(settings=("3w2s",), n_query=4, episodes=40, seed=0, tasks_per_batch=7, dataset=None) -> FewShot:
    return FewShot(list(settings), n_query, episodes, seed, tasks_per_batch, dataset)


class Recorder(RawPixels):
    """Records the tasks that it gets, and returns the given answers."""

    def __init__(self, answer=None):
        super().__init__((1, 8, 8))
        self.answer = answer
        self.asked = []

    def classify(self, support_images, support_labels, query_images, n_way):
        self.asked.append((support_images, support_labels, query_images))
        assert not torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        if self.answer is None:
            return super().classify(support_images, support_labels, query_images, n_way)
        return self.answer(support_images, support_labels, query_images, n_way)


class TwoWays(Recorder):
    """Has two ways to classify: its own, named "own", and one that always answers label 0."""

    @property
    def classifiers(self):
        return ("own", "constant")

    def classify_by_all(self, support_images, support_labels, query_images, n_way):
        own = self.classify(support_images, support_labels, query_images, n_way)
        return {"": own, "own": own, "constant": self.constant(query_images, n_way)}

    def constant(self, query_images, n_way):
        return F.one_hot(torch.zeros(query_images.shape[:2], dtype=torch.int64), n_way).float()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("5w1s", (5, 1, 15)), ("20w5s", (20, 5, 15)), ("5w1s1q", (5, 1, 1)), ("10w3s20q", (10, 3, 20))],
)
def test_a_setting_is_parsed(name, expected):
    setting = Setting.parse(name, 15)
    assert (setting.n_way, setting.k_shot, setting.n_query) == expected


@pytest.mark.parametrize("name", ["5w", "5w1", "1s5w", "5w1s1", "5 w1s", "x5w1s"])
def test_a_malformed_setting_is_refused(name):
    with pytest.raises(ValueError, match="expected ways and shots, as in 5w1s"):
        few_shot([name])


def test_accuracy_and_interval_equal_a_naive_loop(by_images):
    evaluator, test = few_shot(), by_images.test
    tasks = evaluator.tasks(test)(evaluator.settings[0])
    accuracies = []
    for task in range(40):
        support = F.normalize(test.images[tasks.support[task]].flatten(1).double(), dim=1)
        means = [support[[2 * label, 2 * label + 1]].mean(0) for label in range(3)]
        right = 0
        for place, image in enumerate(tasks.query[task]):
            query = F.normalize(test.images[image].flatten().double(), dim=0)
            right += min(range(3), key=lambda label: (query - means[label]).norm().item()) == place // 4
        accuracies.append(right / 12)
    found = evaluator(RawPixels((1, 8, 8)), by_images, CPU)
    assert found["few_shot/3w2s/top1"] == pytest.approx(np.mean(accuracies), abs=1e-12)
    expected = 1.96 * np.std(accuracies, ddof=1) / np.sqrt(40)
    assert found["few_shot/3w2s/ci95"] == pytest.approx(expected, rel=1e-9)


def test_the_short_way_equals_the_long_way(small, long_way, by_images):
    evaluator = few_shot(["5w1s", "3w2s"], episodes=60)
    assert evaluator(small(), by_images, CPU) == pytest.approx(evaluator(small(long_way), by_images, CPU), abs=2e-3)


def test_the_short_way_encodes_each_image_once(small, by_images):
    algorithm, seen = small(), []
    algorithm.eval_encoder().register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    few_shot(["3w2s"], episodes=200)(algorithm, by_images, CPU)
    assert sum(seen) == len(by_images.test)


def test_the_size_of_a_chunk_changes_nothing(by_images):
    scores = [few_shot(tasks_per_batch=size)(Recorder(), by_images, CPU) for size in (1, 7, 100)]
    assert scores[0] == scores[1] == scores[2]


def test_fewer_episodes_are_the_first_of_more(by_images):
    few, more = few_shot(episodes=10), few_shot(episodes=30)
    setting = few.settings[0]
    assert torch.equal(few.tasks(by_images.test)(setting).query, more.tasks(by_images.test)(setting).query[:10])


def test_classify_receives_uint8_images_of_the_test_split_with_their_labels(by_images):
    recorder = Recorder()
    few_shot(episodes=10)(recorder, by_images, CPU)
    shapes = [(support.shape, labels.shape, query.shape) for support, labels, query in recorder.asked]
    assert shapes == [((t, 6, 1, 8, 8), (t, 6), (t, 12, 1, 8, 8)) for t in (7, 3)]
    assert recorder.asked[0][0].dtype == torch.uint8
    assert recorder.asked[0][1][0].tolist() == [0, 0, 1, 1, 2, 2]
    known = {image.numpy().tobytes() for image in by_images.test.images}
    assert {image.numpy().tobytes() for image in recorder.asked[0][2].flatten(0, 1)} <= known


def test_a_memoriser_of_classes_scores_chance(by_images):
    labels = {
        image.numpy().tobytes(): label
        for image, label in zip(by_images.test.images, by_images.test.labels, strict=True)
    }

    def by_heart(_support, _labels, query, n_way):
        """Knows every image's class, and answers it modulo the ways, whatever the support says."""
        classes = torch.tensor([[labels[image.numpy().tobytes()] for image in task] for task in query])
        return F.one_hot(classes % n_way, n_way).float()

    found = few_shot(["5w1s"], episodes=1000)(Recorder(by_heart), by_images, CPU)
    assert abs(found["few_shot/5w1s/top1"] - 0.2) < 2 * found["few_shot/5w1s/ci95"]


def test_equal_scores_are_chance_exactly(by_images):
    def undecided(_support, _labels, query, n_way):
        return torch.zeros(*query.shape[:2], n_way)

    found = few_shot(["5w1s"])(Recorder(undecided), by_images, CPU)
    assert found == {"few_shot/5w1s/top1": pytest.approx(0.2), "few_shot/5w1s/ci95": pytest.approx(0, abs=1e-9)}


def test_scores_of_the_wrong_shape_are_refused(by_images):
    def transposed(_support, _labels, query, n_way):
        return torch.zeros(len(query), n_way, query.shape[1])

    with pytest.raises(ValueError, match=r"Recorder\.classify returned \(7, 3, 12\); expected .* \(7, 12, 3\)"):
        few_shot()(Recorder(transposed), by_images, CPU)


@pytest.mark.parametrize("n", [5, 29])
def test_the_interval_of_few_episodes_is_student_s(n):
    values = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert interval(values) == pytest.approx((high - low) / 2)


def test_the_interval_of_many_episodes_is_normal():
    values = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(50)
    assert interval(values) == pytest.approx(1.96 * np.sqrt(0.25 * 100 / 99) / 10)


def test_the_interval_covers_the_mean_as_often_as_it_claims():
    values = torch.rand(2000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covered = [abs(row.mean().item() - 0.5) < interval(row) for row in values]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_the_manifest_depends_only_on_the_tasks_and_the_data(by_images):
    def tasks(evaluator, splits=by_images):
        return evaluator.protocol(splits)["settings"]["3w2s"]["tasks"]

    assert tasks(few_shot()) == tasks(few_shot(tasks_per_batch=1)) == tasks(few_shot(["5w1s", "3w2s"]))
    assert tasks(few_shot()) != tasks(few_shot(seed=1))
    assert tasks(few_shot()) != tasks(few_shot(episodes=41))
    other = replace(by_images, test=replace(by_images.test, fingerprint="other"))
    assert tasks(few_shot()) != tasks(few_shot(), other)


def test_the_protocol_is_plain_and_says_whether_classes_were_seen(by_images, by_classes):
    seen, unseen = few_shot().protocol(by_images), few_shot(episodes=10).protocol(by_classes)
    assert json.loads(json.dumps(seen)) == seen
    assert (seen["classes"], unseen["classes"]) == ("seen", "unseen")
    assert "1.96" in seen["interval"]
    assert "Student" in unseen["interval"]
    assert (seen["source"], seen["settings"]["3w2s"]["n_query"]) == ("digits/test", 4)


def test_too_many_ways_name_the_setting(by_classes):
    message = r"n_way=10, but split 'test' of digits has 5 classes; lower n_way of '10w1s' in eval\.few_shot"
    with pytest.raises(ValueError, match=message):
        few_shot(["10w1s"])(RawPixels((1, 8, 8)), by_classes, CPU)


@pytest.mark.parametrize(
    ("settings", "each", "fitting"),
    [
        (["5w1s", "5w2s", "10w1s", "5w20s"], 10, ["5w1s", "5w2s"]),
        (["5w1s", "5w1s3q", "5w1s20q"], 10, ["5w1s", "5w1s3q"]),
        (["20w1s", "20w5s"], 10, ["5w1s"]),
        (["5w5s"], 5, ["5w1s"]),
    ],
)
def test_settings_that_fit_a_small_split_are_suggested_and_do_fit(settings, each, fitting, by_classes):
    test = by_classes.test
    rows = torch.cat([(test.labels == label).nonzero()[:each, 0] for label in range(5)])
    small = replace(by_classes, test=replace(test, images=test.images[rows], labels=test.labels[rows]))
    with pytest.raises(ConfigError) as caught:
        few_shot(settings, n_query=15).check(None, small, CPU)
    line = caught.value.problems[-1]
    found = re.search(r"5 classes of at least (\d+) images; .*settings=\[(.*)\] eval\.few_shot\.n_query=(\d+)$", line)
    assert found is not None
    assert (int(found[1]), found[2].split(",")) == (each, fitting)
    few_shot(fitting, n_query=int(found[3])).check(None, small, CPU)
    with pytest.raises(ConfigError):  # one more would be too many
        few_shot([name for name in fitting if "q" not in name], n_query=int(found[3]) + 1).check(None, small, CPU)


def test_a_split_without_a_second_image_fits_no_task(by_classes):
    test = by_classes.test
    rows = torch.stack([(test.labels == label).nonzero()[0, 0] for label in range(5)])
    single = replace(by_classes, test=replace(test, images=test.images[rows], labels=test.labels[rows]))
    with pytest.raises(ConfigError, match=r"too few for any task; leave few_shot out of eval"):
        few_shot().check(None, single, CPU)


def test_one_episode_has_no_interval():
    with pytest.raises(ValueError, match="at least 2"):
        few_shot(episodes=1)


def test_a_setting_named_twice_is_refused():
    with pytest.raises(ValueError, match="repeats a setting"):
        few_shot(["5w1s", "5w1s"])


def test_further_ways_to_classify_are_reported_and_the_configured_one_is_computed_once(by_images):
    plain, several, evaluator = Recorder(), TwoWays(), few_shot(["3w2s", "5w1s"])
    found = evaluator(several, by_images, CPU)
    expected = evaluator(plain, by_images, CPU)
    assert list(found) == evaluator.keys(several)
    assert {key: found[key] for key in evaluator.keys()} == expected  # noqa: SIM118
    for setting, n_way in (("3w2s", 3), ("5w1s", 5)):
        for score in ("top1", "ci95"):
            assert found[f"few_shot/{setting}/own/{score}"] == expected[f"few_shot/{setting}/{score}"]
        assert found[f"few_shot/{setting}/constant/top1"] == pytest.approx(1 / n_way, abs=1e-12)
        assert found[f"few_shot/{setting}/constant/ci95"] == pytest.approx(0, abs=1e-9)
    assert len(several.asked) == len(plain.asked)


def test_a_further_way_that_does_not_work_is_reported_before_training(by_images):
    several = TwoWays()
    several.constant = lambda query, n_way: torch.zeros(query.shape[:2])
    with pytest.raises(
        ValueError, match=r"TwoWays.classify, constant, returned \(1, 3\); expected \(T, Q, n_way\) = \(1, 3, 3\)"
    ):
        few_shot().check(several, by_images, CPU)


def test_a_model_may_be_selected_only_by_a_way_that_its_algorithm_has(by_images):
    node = yaml.safe_load((conf_folder() / "trainer" / "default.yaml").read_text())
    trainer = build(node | {"device": "cpu", "evaluate_every": 1, "select": "few_shot/3w2s/constant/top1"})
    check_selection(trainer, {"few_shot": few_shot()}, TwoWays(), by_images)
    with pytest.raises(ConfigError, match="evaluation has no such metric"):
        check_selection(trainer, {"few_shot": few_shot()}, Recorder(), by_images)


@pytest.fixture(scope="module")
def elsewhere(by_images) -> Splits:
    """Digits from 5 on, upside down and under another name: a dataset other than the run's."""
    test = by_images.test
    rows = test.labels >= 5
    images, labels, names = test.images[rows].flip(2, 3), test.labels[rows] - 5, tuple("abcde")
    turned = Dataset("turned/test", images, labels, names, None, "turned")
    return Splits(replace(turned, name="turned/train"), None, turned, "images")


@pytest.fixture(scope="module")
def two_domains(by_images) -> Splits:
    """Digits in two domains, even and odd."""
    domains = ("even", "odd") * 5
    parts = (replace(part, class_domains=domains) for part in (by_images.train, by_images.test))
    return Splits(next(parts), None, next(parts), "classes")


def test_another_dataset_is_scored_like_the_runs_own_and_under_its_name(by_images, elsewhere):
    own, other = few_shot(["5w1s", "3w2s"]), few_shot(["5w1s", "3w2s"], dataset=elsewhere)
    expected = own(RawPixels((1, 8, 8)), elsewhere, CPU)
    found = other(RawPixels((1, 8, 8)), by_images, CPU)
    assert found == {f"turned/{key}": value for key, value in expected.items()}
    assert list(found) == other.keys()
    assert other.keys(TwoWays()) == [f"turned/{key}" for key in own.keys(TwoWays())]
    setting = own.settings[0]
    assert own.tasks(elsewhere.test)(setting).query.equal(other.tasks(elsewhere.test)(setting).query)


def test_a_run_may_be_scored_on_its_own_and_on_another_dataset_at_once(by_images, elsewhere, tmp_path):
    own, other = few_shot(["5w1s"]), few_shot(["5w1s"], dataset=elsewhere)
    scores = evaluate({"few_shot": own, "few_shot_turned": other}, RawPixels((1, 8, 8)), by_images, CPU)
    assert {key.removesuffix("/top1") for key in scores} > {"few_shot/5w1s", "turned/few_shot/5w1s"}
    for evaluator in (own, other):
        evaluator.write_manifest(tmp_path, by_images)
    assert {path.name for path in tmp_path.iterdir()} == {"tasks.safetensors", "tasks_turned.safetensors"}
    tasks = other.tasks(elsewhere.test)(other.settings[0])
    assert load_file(tmp_path / "tasks_turned.safetensors")["5w1s/query"].equal(tasks.query.int())


def test_a_dataset_never_trained_on_is_unseen_and_a_source_of_the_run_is_seen(by_images, elsewhere):
    protocol = few_shot(dataset=elsewhere).protocol(by_images)
    assert (protocol["source"], protocol["classes"], protocol["fingerprint"]) == ("turned/test", "unseen", "turned")
    assert few_shot().protocol(elsewhere)["settings"] == protocol["settings"]
    assert few_shot(dataset=elsewhere).protocol(elsewhere)["classes"] == "seen"
    train = replace(by_images.train, name="one+two/train", seen=("mnist", "turned"))
    joined = replace(by_images, train=train, by="classes")
    assert few_shot(dataset=elsewhere).protocol(joined)["classes"] == "seen"


def test_images_of_a_shape_that_the_encoder_does_not_take_are_reported_with_the_remedy(by_images, elsewhere):
    wide = replace(elsewhere, test=replace(elsewhere.test, images=elsewhere.test.images.repeat(1, 3, 2, 2)))
    message = (
        r"^eval\.few_shot_turned\.dataset makes images of 3 x 16 x 16, but the encoder takes 1 x 8 x 8; "
        r"set eval\.few_shot_turned\.dataset\.size=8 eval\.few_shot_turned\.dataset\.channels=1$"
    )
    for algorithm in (None, RawPixels((1, 8, 8))):
        with pytest.raises(ValueError, match=message):
            few_shot(dataset=wide).check(algorithm, by_images, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 1}, r"eval\.few_shot_turned\.episodes=1"),
        ({"settings": ["5w"]}, r"eval\.few_shot_turned\.settings has '5w'"),
        ({"settings": []}, "leave few_shot_turned out of eval"),
    ],
)
def test_a_wrong_value_with_another_dataset_is_reported_with_its_key(elsewhere, change, message):
    with pytest.raises(ValueError, match=message):
        few_shot(dataset=elsewhere, **change)


def test_settings_that_do_not_fit_another_dataset_are_reported_with_its_keys(by_images, elsewhere):
    with pytest.raises(ConfigError) as caught:
        few_shot(["10w1s", "5w1s"], dataset=elsewhere).check(None, by_images, CPU)
    lower, remedy = caught.value.problems
    assert lower.endswith("turned has 5 classes; lower n_way of '10w1s' in eval.few_shot_turned")
    assert remedy.endswith("eval.few_shot_turned.settings=[5w1s] eval.few_shot_turned.n_query=4")


def test_no_model_is_selected_by_the_test_images_of_another_dataset(by_images, elsewhere):
    node = yaml.safe_load((conf_folder() / "trainer" / "default.yaml").read_text())
    evaluators = {"few_shot": few_shot(), "few_shot_turned": few_shot(dataset=elsewhere)}
    by_own = build(node | {"device": "cpu", "evaluate_every": 1, "select": "few_shot/3w2s/top1"})
    check_selection(by_own, evaluators, RawPixels((1, 8, 8)), by_images)
    by_other = build(node | {"device": "cpu", "evaluate_every": 1, "select": "turned/few_shot/3w2s/top1"})
    reason = "that one is measured on test images, and nothing may be chosen by it"
    with pytest.raises(
        ConfigError, match=rf"select=turned/few_shot/3w2s/top1: evaluation has no such metric.*{reason}"
    ):
        check_selection(by_other, evaluators, RawPixels((1, 8, 8)), by_images)
    assert list(selecting(evaluators)) == ["few_shot"]


def test_each_domain_is_scored_separately_on_tasks_of_its_own_classes(two_domains, tmp_path):
    evaluator, recorder, test = few_shot(["5w1s", "2w3s"]), Recorder(), two_domains.test
    scores = evaluator(recorder, two_domains, CPU)
    ways = [f"{domain}/few_shot/{setting}" for domain in ("even", "odd") for setting in ("5w1s", "2w3s")]
    assert list(scores) == [f"{way}/{score}" for way in ways for score in ("top1", "ci95")]
    settings = evaluator.protocol(two_domains)["settings"]
    evaluator.write_manifest(tmp_path, two_domains)
    written = load_file(tmp_path / "tasks.safetensors")
    assert list(settings) == ["even/5w1s", "even/2w3s", "odd/5w1s", "odd/2w3s"]
    for name, described in settings.items():
        classes = test.labels[torch.cat([written[f"{name}/support"], written[f"{name}/query"]], dim=1).long()]
        assert (classes % 2 == int(name.startswith("odd"))).all()
        assert written[f"{name}/support"].shape == (40, described["n_way"] * described["k_shot"])
    alone = Splits(two_domains.train, None, replace(test, class_domains=None), "classes")
    tasks = evaluator.tasks(test)(evaluator.settings[0], "odd")
    contender = Contender.of_algorithm(RawPixels((1, 8, 8)), alone.test, [tasks], CPU)
    expected = contender.accuracies(tasks, 7, CPU)[""]
    assert scores["odd/few_shot/5w1s/top1"] == pytest.approx(expected.mean().item())
    assert json.loads(json.dumps(settings)) == settings


def test_a_domain_with_too_few_classes_is_reported_with_settings_that_fit(two_domains):
    with pytest.raises(ConfigError) as caught:
        few_shot(["6w1s", "5w1s"]).check(None, two_domains, CPU)
    assert "n_way=6, but domain 'odd' of split 'test' of digits has 5 classes; lower" in caught.value.problems[1]
    assert "digits/test has 5 classes in even of at least" in caught.value.problems[-1]
    assert "eval.few_shot.settings=[5w1s]" in caught.value.problems[-1]


def test_keys_of_another_dataset_with_domains_begin_with_the_domain(by_images, two_domains):
    other = few_shot(["5w1s"], dataset=two_domains)
    found = other(RawPixels((1, 8, 8)), by_images, CPU)
    assert list(found) == other.keys()
    assert found == few_shot(["5w1s"])(RawPixels((1, 8, 8)), two_domains, CPU)


def test_a_folder_to_evaluate_on_is_decoded_only_if_nothing_else_is_wrong(tmp_path):
    folder = tmp_path / "mine"
    for number in range(12):
        (folder / f"class{number % 3}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 20 * number).save(folder / f"class{number % 3}" / f"{number}.png")
    node = (
        f"{{_target_: ssl_runner.data.sources.image_folder.image_folder, root: {folder}, split: images, "
        "class_split: null, class_counts: null, validation: 0, test: 0.5, split_seed: 0, size: 16, channels: 1}"
    )
    words = ["eval=[few_shot]", f"eval.few_shot.dataset={node}", "eval.few_shot.n_query=1", "baselines=[]"]
    words += ["dataset=digits", "dataset.size=16"]
    config = validate.checked_config(Composer(conf_folder()), [*words, "eval.few_shot.settings=[3w1s]"])[0]
    with no_download() as absent, pytest.raises(NotDownloaded):
        wire.wire(config)
    assert absent == ["image_folder"]
    (evaluator,) = wire.prepare(config).evaluators.values()
    assert evaluator.keys() == ["mine/few_shot/3w1s/top1", "mine/few_shot/3w1s/ci95"]
