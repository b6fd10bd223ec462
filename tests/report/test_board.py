"""How TensorBoard reads a run's folder, through its HTTP interface, with both of its loaders."""

import html
import io
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.tensorboard.writer import SummaryWriter

from ssl_runner.data.batches import Views
from ssl_runner.report.board import log_config, log_layout
from ssl_runner.report.hparams import log_final_metrics, log_hparams
from ssl_runner.report.pictures import views_picture
from ssl_runner.report.projector import log_projector
from ssl_runner.runs.events import final_writer, resumed_writer
from ssl_runner.runs.hyperparameters import hyperparameters

SIMCLR = {
    "algorithm": {"_target_": "ssl_runner.algorithms.contrastive.Contrastive"},
    "loss": {"_target_": "ssl_runner.losses.nt_xent.NTXent", "temperature": 0.5},
    "dataset": {"_target_": "ssl_runner.data.sources.mnist.mnist", "root": "/some/where", "size": 28},
    "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.3, "nesterov": True},
    "eval": {"knn": {"_target_": "ssl_runner.evaluation.knn.KNN", "k": 20}},
    "trainer": {"max_steps": None, "max_epochs": 60, "log_every": 10, "progress": True},
    "augmentation": {"transforms": {}},
    "name": "simclr",
    "seed": 0,
    "resume": None,
}
MAML = {
    "algorithm": {"_target_": "ssl_runner.algorithms.maml.MAML", "inner_lr": 0.4, "second_order": True},
    "loss": {"_target_": "ssl_runner.losses.cross_entropy.CrossEntropy"},
    "eval": {"few_shot": {"_target_": "ssl_runner.evaluation.few_shot.FewShot", "settings": ["5w1s", "5w1s1q"]}},
    "trainer": {"max_steps": 3600, "max_epochs": None, "log_every": 10, "progress": True},
    "name": "maml",
    "seed": 1,
    "resume": None,
}
TAGS = [
    "train/loss",
    "train/lr",
    "train/diagnostics/alignment",
    "train/diagnostics/alignment_of_others",
    "time/images_per_second",
]
IMAGES = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 6, 4) * 50
FEATURES = torch.linspace(-2, 2, 15).view(5, 3)
NAMES = ["zero", "one", "two\ttabs", "", "four"]


@pytest.fixture(scope="module")
def views() -> Views:
    return Views((torch.rand(2, 3, 1, 28, 28), torch.rand(1, 3, 1, 10, 10)), None, torch.arange(3))


@pytest.fixture(scope="module")
def log_folder(tmp_path_factory, views) -> Path:
    """Two runs of different methods; the second was killed after it had logged steps past its checkpoint."""
    folder = tmp_path_factory.mktemp("outputs")
    with resumed_writer(folder / "simclr", 0) as writer:
        log_config(writer, SIMCLR)
        log_hparams(writer, SIMCLR)
        log_layout(writer, TAGS)
        writer.add_image("views", views_picture(views), 0)
        for step in (1, 2):
            for tag in TAGS:
                writer.add_scalar(tag, 1 / step, step)
        log_projector(writer, FEATURES[:2] + 1, IMAGES[:2], None, 1)
        log_projector(writer, FEATURES, IMAGES, NAMES, 2)
    for value in (0.1, 0.8):  # killed after its evaluation, and evaluated again
        with final_writer(folder / "simclr") as writer:
            log_final_metrics(writer, {"knn/top1": value, "raw_pixels/knn/top1": 0.3}, 2)

    writer = resumed_writer(folder / "maml", 0)
    log_config(writer, MAML)
    log_hparams(writer, MAML)
    log_layout(writer, [*TAGS, "train/gradient_norm", "inner_steps/3w1s"])
    curve(writer, range(10, 60, 10), 1.0)
    tear(folder / "maml")
    curve(resumed_writer(folder / "maml", 30), (45, 60), 2.0)  # logs less often than before
    for accuracies in ((0.2, 0.3, 0.4), (0.2, 0.7, 0.9)):  # evaluated twice
        with final_writer(folder / "maml") as writer:
            log_final_metrics(writer, {"few_shot/5w1s/top1": 0.9, "few_shot/5w1s/ci95": 0.01}, 60)
            for step, value in enumerate(accuracies):
                writer.add_scalar("inner_steps/3w1s", value, step)
    return folder


def curve(writer: SummaryWriter, steps, value: float) -> None:
    for step in steps:
        writer.add_scalar("train/loss", value, step)
    writer.close()


def tear(folder: Path) -> None:
    """Leave an incomplete record, as a kill does, in a file that was started long ago."""
    (path,) = folder.glob("events.out.tfevents.*")
    path.write_bytes(path.read_bytes()[:-5])
    path.rename(folder / "events.out.tfevents.1700000000.host.1.0")


def test_each_run_appears_once(board):
    assert sorted(run for run in board.get("runs") if not run.startswith("live")) == ["maml", "simclr"]


def test_the_picture_shown_equals_the_picture_written(board, views, wait_for):
    (picture,) = wait_for(lambda: board.get("plugin/images/images", run="simclr", tag="views", sample=0), len)
    shown = Image.open(io.BytesIO(board.raw(f"plugin/images/individualImage?{picture['query']}")))
    assert np.array_equal(np.array(shown), views_picture(views).permute(1, 2, 0).numpy())


def test_the_config_is_shown_as_a_block_of_yaml_that_can_start_the_run(board, wait_for):
    for run, config in (("simclr", SIMCLR), ("maml", MAML)):
        (text,) = wait_for(lambda run=run: board.get("plugin/text/text", run=run, tag="config"), len)
        code = re.fullmatch(r"<pre><code[^>]*>(.*)</code></pre>\s*", text["text"], re.DOTALL)
        assert code, text["text"]
        assert yaml.safe_load(html.unescape(code.group(1))) == config


def test_the_table_has_the_usual_keys_of_every_run_with_its_own_values(board, wait_for):
    expected = hyperparameters(SIMCLR).keys() | hyperparameters(MAML).keys()
    experiment = wait_for(lambda: board.get("plugin/hparams/experiment", {}), lambda found: found.get("hparamInfos"))
    assert {info["name"] for info in experiment["hparamInfos"]} == expected
    rows = session_groups(board)
    assert {name: row["hparams"] for name, row in rows.items()} == {
        "simclr": hyperparameters(SIMCLR),
        "maml": hyperparameters(MAML),
    }


def test_the_table_begins_with_keys_that_differ_and_final_metrics(board):
    """By default, the page shows the first five of each."""
    experiment = board.get("plugin/hparams/experiment", {})
    differs = [bool(info.get("differs")) for info in experiment["hparamInfos"]]
    assert differs == sorted(differs, reverse=True) and differs[0]
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    final = ["eval/few_shot/5w1s/top1", "eval/knn/top1"]
    assert [name for name in metrics if name.startswith("eval/")] == metrics[: len(final)] == final


def test_the_table_has_final_metrics_of_every_run(board, wait_for):
    rows = wait_for(
        lambda: session_groups(board), lambda rows: all("eval/" in str(row["metricValues"]) for row in rows.values())
    )
    found = {
        name: {
            value["name"]["tag"]: (pytest.approx(value["value"]), value["trainingStep"])
            for value in row["metricValues"]
            if value["name"]["tag"].startswith("eval/")
        }
        for name, row in rows.items()
    }
    assert found == {
        "simclr": {"eval/knn/top1": (0.8, 2)},
        "maml": {"eval/few_shot/5w1s/top1": (0.9, 60)},
    }
    assert {row["sessions"][0]["status"] for row in rows.values()} == {"STATUS_SUCCESS"}


def test_a_repeated_final_evaluation_replaces_the_first(board):
    assert board.points("simclr", "eval/knn/top1") == [(2, pytest.approx(0.8))]


def test_a_curve_of_inner_steps_appears_once_and_removes_no_point_of_other_curves(board):
    assert board.points("maml", "inner_steps/3w1s") == [
        (0, pytest.approx(0.2)),
        (1, pytest.approx(0.7)),
        (2, pytest.approx(0.9)),
    ]
    assert board.points("maml", "eval/few_shot/5w1s/top1") == [(60, pytest.approx(0.9))]
    found = board.get("plugin/custom_scalars/scalars", run="maml", tag="inner_steps/")
    assert list(found["tag_to_events"]) == ["inner_steps/3w1s"]


def test_a_resumed_curve_has_only_its_own_points_after_the_checkpoint(board):
    assert board.points("maml", "train/loss") == [(10, 1), (20, 1), (30, 1), (45, 2), (60, 2)]


def test_a_resumed_curve_has_each_step_once_on_a_server_that_saw_the_first_part(board, log_folder, tmp_path, wait_for):
    name = f"live_{board.url.rpartition(':')[2]}"
    curve(resumed_writer(tmp_path / name, 0), range(10, 60, 10), 1.0)
    tear(tmp_path / name)
    folder = (tmp_path / name).rename(log_folder / name)
    seen = wait_for(lambda: board.points(name, "train/loss"), lambda points: len(points) == 4)
    assert seen == [(10, 1), (20, 1), (30, 1), (40, 1)]
    curve(resumed_writer(folder, 30), range(40, 70, 10), 2.0)
    seen = wait_for(lambda: board.points(name, "train/loss"), lambda points: points[-1][0] == 60)
    assert seen == [(10, 1), (20, 1), (30, 1), (40, 2), (50, 2), (60, 2)]
    second = int(time.time())  # files are named by it
    wait_for(time.time, lambda now: int(now) > second)
    curve(resumed_writer(folder, 20), range(30, 80, 10), 3.0)
    seen = wait_for(lambda: board.points(name, "train/loss"), lambda points: points[-1][0] == 70)
    assert seen == [(10, 1), (20, 1), *((step, 3) for step in range(30, 80, 10))]


def test_the_layout_has_one_chart_for_each_written_tag_and_no_others(board, wait_for):
    layout = wait_for(lambda: board.get("plugin/custom_scalars/layout"), lambda found: "gradient" in json.dumps(found))
    charts = {
        category["title"]: [tag for chart in category["chart"] for tag in chart["multiline"]["tag"]]
        for category in layout["category"]
    }
    assert charts == {
        "Is it learning?": ["train/diagnostics/alignment$"],
        "Adaptation": ["inner_steps/"],
        "Loss": ["train/loss$"],
        "Optimisation": ["train/lr$", "train/gradient_norm$"],
        "Speed": ["time/images_per_second$"],
    }


def test_a_chart_shows_only_its_own_tag(board):
    found = board.get("plugin/custom_scalars/scalars", run="simclr", tag="train/diagnostics/alignment$")
    assert list(found["tag_to_events"]) == ["train/diagnostics/alignment"]


def test_the_projector_has_only_the_last_features_with_classes_and_thumbnails(board):
    info = board.get("plugin/projector/info", run="simclr")
    (embedding,) = info["embeddings"]
    assert embedding["tensorShape"] == [5, 3]
    asked = {"run": "simclr", "name": embedding["tensorName"]}
    values = np.frombuffer(board.raw("plugin/projector/tensor", **asked), dtype=np.float32)
    assert values.reshape(5, 3) == pytest.approx(FEATURES.numpy(), rel=1e-5, abs=1e-6)
    classes = board.raw("plugin/projector/metadata", **asked).decode()
    assert classes.splitlines() == ["zero", "one", "two tabs", "(none)", "four"]
    sheet = np.array(Image.open(io.BytesIO(board.raw("plugin/projector/sprite_image", **asked))))
    width, height = embedding["sprite"]["singleImageDim"]
    assert (width, height) == (4, 6) and sheet.shape == (18, 12, 3)
    for number in range(5):
        row, column = divmod(number, 3)
        thumbnail = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
        assert (thumbnail == number * 50).all()


def test_a_projector_without_class_names_has_none(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        log_projector(writer, FEATURES, IMAGES, None, 1)
    assert "metadata_path" not in (tmp_path / "projector_config.pbtxt").read_text()


def test_a_run_folder_may_be_moved_with_its_projector(tmp_path):
    with SummaryWriter(str(tmp_path / "before")) as writer:
        log_projector(writer, FEATURES, IMAGES, NAMES, 1)
    moved = (tmp_path / "before").rename(tmp_path / "after")
    text = (moved / "projector_config.pbtxt").read_text()
    paths = re.findall(r'_path: "(.*)"', text)
    assert len(paths) == 3 and all((moved / path).is_file() for path in paths)
    assert str(tmp_path) not in text


@pytest.mark.parametrize(("n", "size"), [(128 * 128 + 1, (64, 8)), (4, (30, 200))])
def test_thumbnails_stay_within_tensorboards_limit_and_keep_their_shape(tmp_path, n, size):
    images = torch.zeros(1, 1, *size, dtype=torch.uint8).expand(n, -1, -1, -1)
    with SummaryWriter(str(tmp_path)) as writer:
        log_projector(writer, torch.zeros(n, 1), images, None, 1)
    sheet = Image.open(tmp_path / "projector" / "thumbnails.png")
    dims = re.findall(r"single_image_dim: (\d+)", (tmp_path / "projector_config.pbtxt").read_text())
    width, height = (int(dim) for dim in dims)
    side = math.ceil(math.sqrt(n))
    assert sheet.size == (side * width, side * height) and max(sheet.size) <= 8192
    assert max(width, height) <= 64 and width / height == pytest.approx(size[1] / size[0], rel=0.15)


def test_a_projector_of_unequal_lengths_is_refused(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        with pytest.raises(ValueError, match="5 features, 4 images and 5 class names"):
            log_projector(writer, FEATURES, IMAGES[:4], NAMES, 1)
        with pytest.raises(ValueError, match="5 features, 5 images and 3 class names"):
            log_projector(writer, FEATURES, IMAGES, NAMES[:3], 1)


def test_a_run_of_its_own_has_what_was_chosen_and_the_numbers_that_people_change():
    assert hyperparameters(SIMCLR) == {
        "algorithm": "Contrastive",
        "loss": "NTXent",
        "loss.temperature": 0.5,
        "dataset": "mnist",
        "optimizer": "SGD",
        "optimizer.lr": 0.3,
        "trainer.max_epochs": 60,
        "seed": 0,
    }


def test_a_run_of_a_sweep_has_the_keys_that_vary_as_plain_values():
    keys = ["optimizer.nesterov", "eval.knn", "trainer.max_steps", "augmentation.transforms", "algorithm.inner_lr"]
    assert hyperparameters(SIMCLR, keys) == {
        "optimizer.nesterov": True,
        "eval.knn": "KNN",
        "trainer.max_steps": "null",
        "augmentation.transforms": "{}",
        "algorithm.inner_lr": "-",
    }
    assert hyperparameters({"a": [1, None, "x"], "b": math.inf}, ["a", "b"]) == {"a": "[1, null, x]", "b": "inf"}


def session_groups(board) -> dict:
    """Rows of the table by name, queried like the page does."""
    statuses = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    request = {"startIndex": 0, "sliceSize": 100, "allowedStatuses": statuses}
    answer = board.get("plugin/hparams/session_groups", request)
    return {row["name"]: row for row in answer.get("sessionGroups", [])}
