"""The TensorBoard files of complete runs, and the summary before they start."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_runner import train
from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.data.dataset import Splits
from ssl_runner.data.episodes.tasks import Tasks
from ssl_runner.evaluation.few_shot import MANIFEST
from ssl_runner.evaluation.fixed_tasks import manifest
from ssl_runner.report import adaptation, exhibits, preflight
from ssl_runner.report.console import summarise
from ssl_runner.report.preflight import lines
from ssl_runner.report.task_features import SIDE
from ssl_runner.runs.result import Result
from ssl_runner.runtime import console
from ssl_runner.wiring import wire

CONTRASTIVE = [
    "model.encoder.width=4",
    "batching.batch_size=8",
    "trainer.max_epochs=null",
    "trainer.max_steps=4",
    "trainer.log_every=1",
    "trainer.diagnostics_every=2",
    "trainer.progress=false",
    "eval=[knn]",
    "baselines=[raw_pixels]",
]
EPISODES = [
    "experiment=protonet_digits",
    *(item for item in CONTRASTIVE if "batch_size" not in item and "eval" not in item),
    "batching.tasks_per_batch=2",
    "eval.few_shot.episodes=4",
]
MAML = [
    "experiment=maml_omniglot",
    "dataset=digits",
    "dataset.split=classes",
    *(item for item in EPISODES if not item.startswith(("experiment", "baselines"))),
    "baselines=[untrained,raw_pixels]",
    "eval.few_shot.settings=[5w1s]",
    "batching.n_query=2",
]
UMTRA = [
    "experiment=umtra_omniglot",
    "dataset=digits",
    "model.encoder.width=4",
    "batching.tasks_per_batch=2",
    "trainer.max_steps=2",
    "trainer.diagnostics_every=2",
    "trainer.progress=false",
    "eval=[]",
    "baselines=[]",
]


def config(overrides: list[str]) -> dict:
    return validate.checked_config(Composer(conf_folder()), overrides)[0]


@pytest.fixture(scope="module", params=[CONTRASTIVE, EPISODES], ids=["contrastive", "episodes"])
def ran(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    result = train.run(config(request.param), folder)
    events = EventAccumulator(str(folder), {"images": 0, "scalars": 0, "tensors": 0})
    return folder, result, events.Reload(), request.param is EPISODES


def test_pictures_show_views_before_and_a_task_or_hard_negatives_before_and_after(ran):
    _, result, events, episodic = ran
    both, once = (["episode", "episode/features"], []) if episodic else (["hard_negatives"], ["views"])
    assert sorted(events.Tags()["images"]) == sorted([*both, *once])
    for tag in both:
        assert [image.step for image in events.Images(tag)] == [0, result["steps"]]
    for tag in once:
        assert [image.step for image in events.Images(tag)] == [0]
    for image in (image for tag in (*both, *once) for image in events.Images(tag)):
        picture = Image.open(io.BytesIO(image.encoded_image_string))
        assert min(picture.size) > 64
        assert len(set(picture.convert("L").tobytes())) > 10


def test_every_scalar_has_each_step_once_and_the_final_metrics_are_the_main_results(ran):
    _, result, events, episodic = ran
    for tag in events.Tags()["scalars"]:
        steps = [point.step for point in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
    main = {tag for tag in events.Tags()["scalars"] if tag.startswith("eval/")}
    figures = {"knn/top1", "linear_probe/top1", "few_shot/5w1s/top1"}
    assert main == {f"eval/{name}" for name in figures & result["metrics"].keys()} and len(main) > episodic
    for tag in main:
        (point,) = events.Scalars(tag)
        assert point.value == pytest.approx(result["metrics"][tag.removeprefix("eval/")], rel=1e-6)
    assert [point.step for point in events.Scalars("train/diagnostics/embedding_std")] == [0, 2, 4]
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_runs_that_mine_images_have_a_curve_of_false_negatives(ran):
    _, _, events, episodic = ran
    tags = {tag for tag in events.Tags()["scalars"] if "false_negative" in tag}
    assert tags == (
        set() if episodic else {"train/diagnostics/false_negative_rate", "train/diagnostics/false_negative_base_rate"}
    )
    for tag in tags:
        assert [point.step for point in events.Scalars(tag)] == [0, 2, 4]
        assert all(0 <= point.value <= 1 for point in events.Scalars(tag))


def test_config_layout_and_hyperparameters_are_logged(ran):
    _, _, events, _ = ran
    tensors = events.Tags()["tensors"]
    assert {"config", "custom_scalars__config__", "_hparams_/session_start_info"} <= set(tensors)


def test_the_projector_finds_its_files(ran):
    folder, _, _, _ = ran
    config = (folder / "projector_config.pbtxt").read_text()
    assert "projector/features.tsv" in config
    assert "projector/thumbnails.png" in config
    rows = len((folder / "projector" / "features.tsv").read_text().splitlines())
    assert rows == len((folder / "projector" / "classes.tsv").read_text().splitlines()) > 100


def test_the_tasks_of_the_evaluation_are_written_and_their_hash_is_in_the_result(ran):
    folder, result, _, episodic = ran
    assert (folder / MANIFEST).exists() == episodic
    if episodic:
        stored = load_file(folder / MANIFEST)
        test = wire.prepare(config(EPISODES)).splits.test
        (setting,) = result["protocols"]["few_shot"]["settings"].values()
        tasks = Tasks(stored["5w1s/support"].long(), stored["5w1s/query"].long(), setting["n_way"])
        assert len(tasks) == 4
        assert manifest(tasks, test) == setting["tasks"]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A run of MAML, evaluated twice, as after a crash between its evaluation and its end."""
    folder = tmp_path_factory.mktemp("maml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "N_TASKS", 6)
        result = train.run(config(MAML), folder)
        (folder / "result.json").unlink()
        again = train.run(config([*MAML, "resume=auto"]), folder)
    assert again["metrics"] == result["metrics"]
    return folder, again


def test_accuracy_per_inner_step_equals_a_loop_over_tasks_for_each_possible_shot(adapted):
    folder, _ = adapted
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("inner_steps/")}
    assert tags == {"inner_steps/5w1s", "inner_steps/5w5s"}
    run = wire.prepare(config(MAML))
    run.algorithm.load_state_dict(torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["algorithm"])
    run.algorithm.eval()
    test = run.splits.test
    for name, tasks in adaptation.fixed_tasks(test, 5):
        assert len(tasks) == adaptation.N_TASKS
        right = torch.zeros(4, dtype=torch.float64)
        for task in range(6):
            support, query = test.images[tasks.support[task]][None], test.images[tasks.query[task]][None]
            scores = run.algorithm.trajectory(support, tasks.support_labels[task][None], query, 5)[:, 0]
            right += (scores.argmax(-1) == tasks.query_labels[task]).sum(1)
        points = events.Scalars(f"inner_steps/{name}")
        assert [point.step for point in points] == [0, 1, 2, 3]
        # one of the 450 queries may be undecided up to rounding
        assert [point.value for point in points] == pytest.approx((right / 450).tolist(), abs=1.5 / 450)


def test_a_run_that_adapts_shows_features_and_several_accuracies_as_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation, "N_TASKS", 2)
    words = [word for word in MAML if not word.startswith(("baselines", "eval.few_shot.settings"))]
    words += ["baselines=[]", "eval.few_shot.settings=[5w1s,5w2s]"]
    result = train.run(config(words), tmp_path)
    events = EventAccumulator(str(tmp_path), {"images": 0}).Reload()
    assert {"episode", "episode/features", "few_shot"} <= set(events.Tags()["images"])
    assert [image.step for image in events.Images("few_shot")] == [result["steps"]]
    shown = [Image.open(io.BytesIO(image.encoded_image_string)) for image in events.Images("episode/features")]
    assert len(shown) == 2 and all(picture.width > 2 * SIDE for picture in shown)  # before and after adaptation


def test_a_split_with_too_few_classes_has_no_tasks_to_show(adapted):
    test = wire.prepare(config(MAML)).splits.test
    assert [name for name, _ in adaptation.fixed_tasks(test, 6)] == []
    few = replace(test, images=test.images[:0], labels=test.labels[:0])
    assert [name for name, _ in adaptation.fixed_tasks(few, 5)] == []
    order = test.labels.argsort(stable=True)
    sixteen = torch.cat([order[test.labels[order] == label][:16] for label in range(5)])
    smaller = replace(test, images=test.images[sixteen], labels=test.labels[sixteen])
    assert [name for name, _ in adaptation.fixed_tasks(smaller, 5)] == ["5w1s"]


@pytest.mark.parametrize(("classes", "ways"), [(5, 4), (3, 3), (2, 2)])
def test_the_task_shown_has_the_most_ways_for_which_there_are_classes(classes, ways):
    run = wire.prepare(config([*EPISODES, "batching.n_way=[2,4]", "batching.k_shot=[1,3]"]))
    test = run.splits.test
    few = replace(test, labels=test.labels.clamp(max=classes - 1), class_names=test.class_names[:classes])
    episode, names = exhibits.fixed_episode(few, run.batching)
    assert episode.n_way == len(set(names)) == ways
    assert episode.support_labels.shape == (1, ways * 3)


def test_a_task_with_more_ways_than_classes_is_not_shown():
    run = wire.prepare(config([*EPISODES, "batching.n_way=[3,4]"]))
    test = run.splits.test
    two = replace(test, labels=test.labels.clamp(max=1), class_names=test.class_names[:2])
    assert exhibits.fixed_episodes(two, run.batching) == {}


def test_a_task_of_drawn_sizes_is_shown_with_its_own_shots_and_told_before_the_run():
    given = [word for word in EPISODES if not word.startswith("batching.")]
    run = wire.prepare(config([*given, "batching=episodes_varied", "batching.n_way=[2,4]", "batching.support_size=40"]))
    test = run.splits.test
    episode, names = exhibits.fixed_episode(test, run.batching)
    assert 2 <= episode.n_way == len(set(names)) <= 4
    shots = episode.support_labels[0].bincount(minlength=episode.n_way)
    assert shots.min() >= 1 and len(set(shots.tolist())) > 1
    for images, labels in (
        (episode.support_images, episode.support_labels),
        (episode.query_images, episode.query_labels),
    ):
        for image, label in zip(images[0], labels[0].tolist(), strict=True):
            (place, *_) = (test.images.float() / 255 == image).flatten(1).all(dim=1).nonzero()
            assert test.class_names[test.labels[place]] == names[label]
    assert "one task of 2 to 4 ways, up to 40 shots in all, up to 10 queries" in lines(run, None, 0)["batch"]


def unlabelled(part):
    """Like `components.part`, but without the labels of datasets."""

    def make(node, path, role, **supplied):
        made = part(node, path, role, **supplied)
        if role is not Splits:
            return made
        bare = {
            name: replace(getattr(made, name), labels=None, class_names=()) for name in ("train", "validation", "test")
        }
        return replace(made, **bare)

    return make


@pytest.mark.parametrize("labelled", [True, False])
def test_pseudo_tasks_are_shown_and_with_labels_also_real_tasks(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation, "N_TASKS", 4)
    if not labelled:
        monkeypatch.setattr(wire.components, "part", unlabelled(wire.components.part))
    train.run(config(UMTRA), tmp_path)
    events = EventAccumulator(str(tmp_path), {"images": 0, "scalars": 0}).Reload()
    tasks = {"pseudo_episode", "episode"} if labelled else {"pseudo_episode"}
    pictures = tasks | {f"{task}/features" for task in tasks}
    assert set(events.Tags()["images"]) == pictures
    for tag in pictures:
        assert [image.step for image in events.Images(tag)] == [0, 2]
    curves = {tag for tag in events.Tags()["scalars"] if tag.startswith("inner_steps/")}
    assert curves == ({"inner_steps/5w1s"} if labelled else set())  # validation has too few images for five shots
    assert all(
        point.value > 0 for point in events.Scalars("train/diagnostics/alignment")
    )  # two views of an image differ


def test_both_ways_to_classify_are_described_in_the_result(adapted):
    _, result = adapted
    metrics = result["metrics"]
    ways = [
        f"{prefix}few_shot/5w1s{way}" for prefix in ("", "untrained/") for way in ("", "/inductive", "/transductive")
    ]
    assert {key for key in metrics if "raw_pixels" not in key} == {
        f"{way}/{key}" for way in ways for key in ("top1", "ci95")
    }
    for prefix in ("", "untrained/"):
        assert metrics[f"{prefix}few_shot/5w1s/transductive/top1"] == metrics[f"{prefix}few_shot/5w1s/top1"]
    assert result["protocols"]["algorithm"]["classifiers"] == {"inductive": "support", "transductive": "batch"}


def test_further_ways_to_classify_are_rows_below_the_encoder_and_the_table_fits_a_terminal():
    metrics = {
        f"{prefix}few_shot/{setting}{way}/{score}": value
        for prefix in ("", "untrained/", "raw_pixels/")
        for setting in ("5w1s", "5w1s1q")
        for way in (("",) if prefix == "raw_pixels/" else ("", "/inductive", "/transductive"))
        for score, value in (("top1", 0.9 if way == "/inductive" else 0.95), ("ci95", 0.0123))
    } | {"knn/top1": 0.5}
    console = Console(record=True, width=80, file=io.StringIO())
    summarise(SimpleNamespace(metrics=metrics), console)
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in console.export_text().splitlines()[2:]]
    cells = {"": "95.00 ± 1.23", "inductive": "90.00 ± 1.23", "transductive": "95.00 ± 1.23"}
    expected = [["", "5w1s", "5w1s1q", "knn"]]
    for encoder, knn in (("trained", "50.00"), ("untrained encoder", "-")):
        for way, cell in cells.items():
            expected.append([way or encoder, cell, cell, "-" if way else knn])
    expected.append(["raw pixels", "95.00 ± 1.23", "95.00 ± 1.23", "-"])
    assert [row for row in rows if len(row) > 1] == expected


def test_each_evaluated_dataset_has_its_own_table():
    names = ("few_shot/5w1s", "mnist/few_shot/2w1s", "cifar10/few_shot/5w1s", "cifar10/few_shot/5w5s", "cifar10/knn")
    metrics = {
        f"{prefix}{name}/{score}": 0.5 for prefix in ("", "untrained/") for name in names for score in ("top1", "ci95")
    }
    console = Console(record=True, width=80, file=io.StringIO())
    summarise(SimpleNamespace(metrics=metrics), console)
    lines = console.export_text().splitlines()
    assert [line.strip() for line in lines if line.startswith("accuracy")] == [
        "accuracy on test, %",
        "accuracy on mnist, %",
        "accuracy on cifar10, %",
    ]
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[0] in "│┃"]
    assert rows[-3:] == [
        ["", "5w1s", "5w5s", "knn"],
        *([name, *["50.00 ± 50.00"] * 3] for name in ("trained", "untrained encoder")),
    ]


def test_a_range_of_ways_and_shots_is_announced_with_the_memory_of_the_largest():
    some = [*EPISODES, "batching.n_way=[2,5]", "batching.k_shot=[1,3]"]
    ranged, largest = (wire.prepare(config(overrides)) for overrides in (some, [*EPISODES, "batching.k_shot=3"]))
    assert ranged.step_bytes == largest.step_bytes
    assert lines(ranged, None, 0)["batch"] == "2 tasks of 2 to 5 ways, 1 to 3 shots, 15 queries: 119 images on average"
    assert lines(largest, None, 0)["batch"] == "2 tasks of 5 ways, 3 shots, 15 queries: 180 images"
    growing = wire.prepare(config([*some, "batching.ways_grow_every=1000"]))
    assert lines(growing, None, 0)["batch"] == (
        "2 tasks of 2 to 5 ways (one more every 1,000 steps), 1 to 3 shots, 15 queries: "
        "170 images on average at the most ways"
    )


def test_pseudo_tasks_are_announced_as_such():
    said = lines(wire.prepare(config(UMTRA)), None, 0)["batch"]
    assert said == "2 pseudo-tasks of 5 images, 1 support and 1 query views of each: 20 images"


@pytest.mark.parametrize("overrides", [CONTRASTIVE, EPISODES], ids=["contrastive", "episodes"])
def test_a_dozen_lines_announce_the_run(overrides, tmp_path):
    run = wire.prepare(config(overrides))
    said = lines(run, tmp_path, 0)
    assert len(said) <= 13
    text = "\n".join(said.values())
    parameters = sum(parameter.numel() for parameter in run.algorithm.parameters())
    assert f"{parameters:,} trained parameters" in text
    assert f"{len(run.splits.train):,} images of {run.splits.train.n_classes} classes" in text
    assert run.splits.train.fingerprint in text
    assert str(tmp_path) in text
    assert said["memory"].startswith("a step about ")


def test_doubtful_data_is_warned_about_and_all_notes_are_in_the_result(tmp_path, capsys):
    for name, shade in (("ant", 3), ("bee", 3)):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("L", (16, 16), shade).save(tmp_path / "mine" / name / f"{number}.png")
        (tmp_path / "mine" / name / "notes.txt").write_text("")
    words = ["dataset=image_folder", f"dataset.root={tmp_path / 'mine'}", "dataset.size=16", "dataset.channels=1"]
    found = wire.prepare(config([*CONTRASTIVE, *words, "dataset.validation=0", "eval=[]", "batching.batch_size=8"]))
    said = lines(found, None, 0)
    assert "train 19 images of 2 classes (ant, bee); validation none" in said[""]
    assert "2 .txt" in said["notes"]
    assert "no validation images: all 19 training images" in said["notes"]
    preflight.announce(found, None, 0, console.Console())
    text = capsys.readouterr().out
    assert "warning: all 19 images of mine/train are the same" in text
    assert "warning: the largest value of any pixel is 3 of 255" in text
    assert "warning: 5 of 5 test images occur in train too (ant/" in text
    dataset = Result(tmp_path, found.description()).content["dataset"]
    assert dataset["no_images"] == {".txt": 2}
    assert dataset["duplicates"] == {"test in train": 5}
    assert (dataset["all_alike"], dataset["greatest_value"], dataset["validation"]) == (19, 3, "none")


def test_a_slow_linear_probe_is_announced(monkeypatch):
    found = wire.prepare(config([*CONTRASTIVE, "eval=[linear_probe,knn]", "eval.knn.k=20"]))
    assert lines(found, None, 0)["evaluation"] == "linear probe; knn"
    monkeypatch.setattr(preflight, "SLOW", 0)
    said = lines(found, None, 0)["evaluation"]
    assert re.fullmatch(r"linear probe \(up to about \d+0 s for each encoder\); knn", said)


MASKED = [
    "algorithm=masked",
    "model/encoder=vit_tiny",
    "model.encoder.patch_size=5",
    "model/head=identity",
    "loss=mse",
    "batching=labelled",
    "masking=random",
    "optimizer=adamw",
    *(item for item in CONTRASTIVE if "width" not in item and "max_steps" not in item and "eval" not in item),
    "trainer.max_steps=1",
    "eval=[]",
    "baselines=[]",
]


@pytest.mark.parametrize("diagnostics", [True, False])
def test_what_is_masked_is_shown_before_and_after(diagnostics, tmp_path, monkeypatch):
    monkeypatch.setattr(exhibits, "N_ERRORS", 16)
    overrides = MASKED if diagnostics else [*MASKED, "trainer.diagnostics_every=null"]
    train.run(config(overrides), tmp_path)
    events = EventAccumulator(str(tmp_path), {"images": 0}).Reload()
    both = {"masked_images", "class_attention", "feature_colors"} | ({"error_by_place"} if diagnostics else set())
    assert set(events.Tags()["images"]) == both | {"views"}
    for tag in both:
        assert [image.step for image in events.Images(tag)] == [0, 1]
