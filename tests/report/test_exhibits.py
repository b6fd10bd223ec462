"""What whole runs leave for TensorBoard, and say before they start."""

import io

import pytest
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_runner import checks, commandline, train, wiring
from ssl_runner.composition import Composer
from ssl_runner.data.tasks import Tasks
from ssl_runner.evaluation.few_shot import MANIFEST, manifest
from ssl_runner.report.preflight import lines

CONTRASTIVE = [
    "model.encoder.width=4",
    "batching.batch_size=8",
    "trainer.max_epochs=null",
    "trainer.max_steps=4",
    "trainer.log_every=1",
    "trainer.panel_every=2",
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


def config(overrides: list[str]) -> dict:
    return checks.settled(Composer(commandline.conf_folder()), overrides)[0]


@pytest.fixture(scope="module", params=[CONTRASTIVE, EPISODES], ids=["contrastive", "episodes"])
def ran(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    result = train.run(config(request.param), folder)
    events = EventAccumulator(str(folder), {"images": 0, "scalars": 0, "tensors": 0})
    return folder, result, events.Reload(), request.param is EPISODES


def test_pictures_show_views_before_and_a_task_or_hard_negatives_before_and_after(ran):
    _, result, events, episodic = ran
    twice, once = ("episode", []) if episodic else ("hard_negatives", ["views"])
    assert sorted(events.Tags()["images"]) == sorted([twice, *once])
    assert [image.step for image in events.Images(twice)] == [0, result["steps"]]
    for tag in once:
        assert [image.step for image in events.Images(tag)] == [0]
    for image in (image for tag in (twice, *once) for image in events.Images(tag)):
        picture = Image.open(io.BytesIO(image.encoded_image_string))
        assert min(picture.size) > 64
        assert len(set(picture.convert("L").tobytes())) > 10


def test_every_scalar_has_each_step_once_and_the_final_metrics_are_the_results(ran):
    _, result, events, _ = ran
    for tag in events.Tags()["scalars"]:
        steps = [point.step for point in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
    for name, value in result["metrics"].items():
        (point,) = events.Scalars(f"eval/{name}")
        assert point.value == pytest.approx(value, rel=1e-6)
    assert [point.step for point in events.Scalars("panel/embedding_std")] == [0, 2, 4]
    assert [point.step for point in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_the_rate_of_false_negatives_is_a_curve_of_runs_that_mine_images(ran):
    _, _, events, episodic = ran
    tags = {tag for tag in events.Tags()["scalars"] if "false_negative" in tag}
    assert tags == (set() if episodic else {"panel/false_negative_rate", "panel/false_negative_base_rate"})
    for tag in tags:
        assert [point.step for point in events.Scalars(tag)] == [0, 2, 4]
        assert all(0 <= point.value <= 1 for point in events.Scalars(tag))


def test_config_layout_and_hyperparameters_are_there(ran):
    _, _, events, _ = ran
    tensors = events.Tags()["tensors"]
    assert {"config", "custom_scalars__config__", "_hparams_/session_start_info"} <= set(tensors)


def test_the_projector_finds_its_files_beside_it(ran):
    folder, _, _, _ = ran
    config = (folder / "projector_config.pbtxt").read_text()
    assert "projector/features.tsv" in config
    assert "projector/thumbnails.png" in config
    rows = len((folder / "projector" / "features.tsv").read_text().splitlines())
    assert rows == len((folder / "projector" / "classes.tsv").read_text().splitlines()) > 100


def test_the_tasks_of_the_evaluation_are_written_and_their_hash_is_the_results(ran):
    folder, result, _, episodic = ran
    assert (folder / MANIFEST).exists() == episodic
    if episodic:
        stored = load_file(folder / MANIFEST)
        test = wiring.prepare(config(EPISODES)).splits.test
        (setting,) = result["protocols"]["few_shot"]["settings"].values()
        tasks = Tasks(stored["5w1s/support"].long(), stored["5w1s/query"].long(), setting["n_way"])
        assert len(tasks) == 4
        assert manifest(tasks, test) == setting["tasks"]


@pytest.mark.parametrize("overrides", [CONTRASTIVE, EPISODES], ids=["contrastive", "episodes"])
def test_a_dozen_lines_say_what_will_be_done(overrides, tmp_path):
    run = wiring.prepare(config(overrides))
    said = lines(run, tmp_path, 0)
    assert len(said) <= 13
    text = "\n".join(said.values())
    parameters = sum(parameter.numel() for parameter in run.algorithm.parameters())
    assert f"{parameters:,} trained parameters" in text
    assert f"{len(run.splits.train):,} images of {run.splits.train.n_classes} classes" in text
    assert run.splits.train.fingerprint in text
    assert str(tmp_path) in text
    assert said["memory"].startswith("a step about ")
