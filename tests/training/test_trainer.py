import json
import math
import os
import signal
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_runner import errors
from ssl_runner.algorithms.algorithm import Algorithm, Step
from ssl_runner.data.augmentation import Augmentation
from ssl_runner.data.batches import Episodes, Views
from ssl_runner.data.batching.view_batching import ViewBatching
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.episode_batching import EpisodeBatching
from ssl_runner.errors import ProcessLost, RunStopped
from ssl_runner.models.network import Encoder, Network
from ssl_runner.optim import rates
from ssl_runner.optim.schedules import Constant, WarmupCosine
from ssl_runner.runs.tracking import Tracker
from ssl_runner.runtime import collectives, process_group
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training import checkpoint, loop
from ssl_runner.training.trainer import Trainer

IDENTITY = checkpoint.Identity("config", "data", torch.get_num_threads())


def trainer(**changes) -> Trainer:
    settings = {
        "max_steps": 6,
        "max_epochs": None,
        "device": "cpu",
        "precision": "float32",
        "threads": None,
        "channels_last": False,
        "keep_pages": False,
        "cudnn_benchmark": False,
        "gradient_clip_norm": None,
        "accumulate_grad_batches": 1,
        "log_every": 1,
        "checkpoint_every": 100,
        "diagnostics_every": None,
        "stop_on_collapse": False,
        "evaluate_every": None,
        "select": None,
        "progress": False,
    }
    return Trainer(**(settings | changes))


def dataset(n: int = 40, classes: int = 4) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    names = tuple(str(label) for label in range(classes))
    return Dataset("random/train", images, torch.arange(n) % classes, names, None, "data")


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU())
        self.out_features = 16

    def forward(self, images):
        return self.layers(images)


def network() -> Network:
    torch.manual_seed(0)
    return Network(Encoder(Flat(), (1, 8, 8), [0.5], [0.3]), nn.Linear(16, 4))


class Classifier(Algorithm):
    """A plain classifier of labelled views."""

    batch_type = Views

    def __init__(self) -> None:
        super().__init__(network())

    def training_step(self, batch: Views, context: StepContext) -> Step:
        loss = F.cross_entropy(self.network(batch.crops[0][0]), batch.labels)
        return Step(loss, {"noise": torch.rand((), generator=context.generator("noise"))})


def batching() -> ViewBatching:
    made = ViewBatching(Augmentation({}), batch_size=8, views=1)
    made.bind(dataset(), seed=0, device=torch.device("cpu"))
    return made


def fit(
    algorithm,
    folder,
    made=None,
    schedule=None,
    resumed=None,
    validate=None,
    watch=None,
    lr=0.1,
    decay=0.0,
    seed=0,
    **changes,
):
    optimizer = torch.optim.SGD(algorithm.parameter_groups(), lr=lr, momentum=0.9, weight_decay=decay)
    rates.begin(optimizer)
    folder.mkdir(exist_ok=True)
    run: Any = SimpleNamespace(
        trainer=trainer(**changes),
        algorithm=algorithm,
        trained=algorithm,
        whole=nullcontext,
        gather=lambda: None,
        batching=made or batching(),
        optimizer=optimizer,
        schedule=schedule or Constant(),
        seed=seed,
        identity=IDENTITY,
        validate=validate,
        watch=watch,
    )
    with Tracker(folder, 0 if resumed is None else resumed["step"]) as tracker:
        loop.fit(run, folder, tracker, resumed)
    return algorithm


def log(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def deterministic(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


class StopAt(WarmupCosine):
    """A schedule that ends the run like a crash."""

    def __init__(self, step: int) -> None:
        super().__init__(2, 0.0)
        self.step = step

    def __call__(self, step: int, max_steps: int) -> float:
        if step == self.step:
            raise KeyboardInterrupt
        return super().__call__(step, max_steps)


def test_three_and_three_steps_equal_six_bit_for_bit(tmp_path):
    whole = fit(Classifier(), tmp_path / "whole", schedule=WarmupCosine(2, 0.0))
    with pytest.raises(KeyboardInterrupt):
        fit(Classifier(), tmp_path / "cut", schedule=StopAt(5), checkpoint_every=3)
    resumed, _ = checkpoint.load(tmp_path / "cut" / "checkpoints", IDENTITY)
    assert resumed["step"] == 3
    again = fit(Classifier(), tmp_path / "cut", schedule=WarmupCosine(2, 0.0), resumed=resumed, checkpoint_every=3)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert deterministic(log(tmp_path / "cut")) == deterministic(log(tmp_path / "whole"))


def test_logging_changes_nothing(tmp_path):
    often = fit(Classifier(), tmp_path / "often", log_every=1)
    rarely = fit(Classifier(), tmp_path / "rarely", log_every=6)
    assert all(torch.equal(a, b) for a, b in zip(often.parameters(), rarely.parameters(), strict=True))
    assert [row["step"] for row in log(tmp_path / "rarely")] == [6]


def test_another_seed_is_another_run(tmp_path):
    one, two = fit(Classifier(), tmp_path / "one"), fit(Classifier(), tmp_path / "two", seed=1)
    assert not torch.equal(one.network.head.weight, two.network.head.weight)


def test_the_logged_learning_rate_follows_the_schedule(tmp_path):
    schedule = WarmupCosine(2, 0.0)
    fit(Classifier(), tmp_path, schedule=schedule)
    assert [row["train/lr"] for row in log(tmp_path)] == pytest.approx([0.1 * schedule(step, 6) for step in range(6)])


def test_a_scheduled_weight_decay_is_logged_and_goes_on_bit_for_bit(tmp_path):
    schedule = WarmupCosine(2, 0.0, final_weight_decay=0.4)
    whole = fit(Classifier(), tmp_path / "whole", schedule=schedule, decay=0.04)
    expected = [0.4 - 0.36 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert [row["train/weight_decay"] for row in log(tmp_path / "whole")] == pytest.approx(expected)
    stopping = StopAt(5)
    stopping.final_weight_decay = 0.4
    with pytest.raises(KeyboardInterrupt):
        fit(Classifier(), tmp_path / "cut", schedule=stopping, decay=0.04, checkpoint_every=3)
    resumed, _ = checkpoint.load(tmp_path / "cut" / "checkpoints", IDENTITY)
    again = fit(Classifier(), tmp_path / "cut", schedule=schedule, decay=0.04, resumed=resumed)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    constant = fit(Classifier(), tmp_path / "constant", schedule=WarmupCosine(2, 0.0), decay=0.04)
    assert not torch.equal(constant.network.head.weight, whole.network.head.weight)
    assert "train/weight_decay" not in log(tmp_path / "constant")[0]


def test_accumulation_equals_the_whole_batch(tmp_path):
    class Plain(Classifier):
        def __init__(self):
            super().__init__()
            self.network = Network(Encoder(nn.Flatten(), (1, 8, 8), [0.5], [0.3]), nn.Linear(64, 4))

    torch.manual_seed(0)
    whole = Plain()
    torch.manual_seed(0)
    pieces = Plain()
    pieces.load_state_dict(whole.state_dict())
    fit(whole, tmp_path / "whole", accumulate_grad_batches=1)
    fit(pieces, tmp_path / "pieces", accumulate_grad_batches=3)
    torch.testing.assert_close(whole.network.head.weight, pieces.network.head.weight)
    losses = [[row["train/loss"] for row in log(tmp_path / name)] for name in ("whole", "pieces")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_clipping_bounds_the_update(tmp_path):
    before, after = Classifier(), Classifier()
    fit(after, tmp_path, gradient_clip_norm=1e-3, max_steps=1, lr=1.0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before.parameters(), after.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("function", ["any_of", "averaged_gradients"])
def test_a_process_lost_anywhere_in_a_step_is_reported_with_the_way_to_resume(function, tmp_path, monkeypatch):
    seen = []

    def talk(*_):
        seen.append(function)
        if len(seen) > 3:
            raise ProcessLost("no answer")
        return False if function == "any_of" else nullcontext()

    monkeypatch.setattr(process_group if function == "any_of" else collectives, function, talk)
    message = r"another process of this run is gone at step 4 \(no answer\)\. The last good .*resume="
    with pytest.raises(ProcessLost, match=message):
        fit(Classifier(), tmp_path, checkpoint_every=2)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    class Diverging(Classifier):
        def training_step(self, batch, context):
            step = super().training_step(batch, context)
            return Step(step.loss * torch.inf) if context.step == 3 else step

    with pytest.raises(RunStopped, match="at step 4"):
        fit(Diverging(), tmp_path, checkpoint_every=2)
    state, _ = checkpoint.load(tmp_path / "checkpoints", IDENTITY)
    assert state["step"] == 2
    assert all(torch.isfinite(value).all() for value in state["algorithm"].values())


def test_the_weights_with_the_best_validation_score_are_selected(tmp_path):
    algorithm = Classifier()
    weights, scores = [], iter([0.1, 0.9, 0.5])

    def validate() -> dict[str, float]:
        weights.append(algorithm.network.head.weight.clone())
        return {"knn/top1": next(scores)}

    fit(algorithm, tmp_path, validate=validate, evaluate_every=2, select="knn/top1")
    assert torch.equal(algorithm.network.head.weight, weights[1])
    assert [row["eval/validation/knn/top1"] for row in log(tmp_path) if "eval/validation/knn/top1" in row] == [
        0.1,
        0.9,
        0.5,
    ]


def test_validation_can_come_once_after_the_last_step(tmp_path):
    algorithm = Classifier()
    fit(algorithm, tmp_path, validate=lambda: {"knn/top1": 0.5}, evaluate_every="last", select="knn/top1")
    validated = [row["step"] for row in log(tmp_path) if "eval/validation/knn/top1" in row]
    assert validated == [log(tmp_path)[-1]["step"]]


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(tmp_path):
    fit(Classifier(), tmp_path, checkpoint_every=2)
    last = tmp_path / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:100])
    state, warnings = checkpoint.load(tmp_path / "checkpoints", IDENTITY)
    assert state["step"] == 4
    assert "damaged" in warnings[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path, number):
    class Interrupted(Classifier):
        def training_step(self, batch, context):
            if context.step == 2:
                os.kill(os.getpid(), number)
            return super().training_step(batch, context)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="after step 3 of 6; resume with: ssl-train resume="):
        fit(Interrupted(), tmp_path / "cut")
    assert signal.getsignal(number) is before
    resumed, _ = checkpoint.load(tmp_path / "cut" / "checkpoints", IDENTITY)
    assert resumed["step"] == 3
    again = fit(Classifier(), tmp_path / "cut", resumed=resumed)
    whole = fit(Classifier(), tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize(("change", "message"), [({"config_hash": "x"}, "config"), ({"fingerprint": "x"}, "data")])
def test_resuming_with_another_config_or_other_data_is_refused(tmp_path, change, message):
    fit(Classifier(), tmp_path)
    with pytest.raises(errors.ResumeError, match=message):
        checkpoint.load(tmp_path / "checkpoints", checkpoint.Identity(**(vars(IDENTITY) | change)))


def test_resuming_with_another_number_of_threads_warns(tmp_path):
    fit(Classifier(), tmp_path)
    _, warnings = checkpoint.load(tmp_path / "checkpoints", checkpoint.Identity(**(vars(IDENTITY) | {"threads": 99})))
    assert "threads" in warnings[0]


def test_checkpoints_hold_tensors_and_plain_data_only(tmp_path):
    fit(Classifier(), tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": 3}, "exactly one"),
        ({"max_steps": None}, "exactly one"),
        ({"log_every": 0}, "log_every=0"),
        ({"precision": "float16"}, "float32, bfloat16"),
        ({"device": "tpu"}, "is not available here"),
        ({"gradient_clip_norm": 0.0}, "gradient_clip_norm"),
        ({"select": "knn/top1"}, "needs both"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(**changes)


def test_epochs_count_whole_batches_and_episodes_have_none():
    assert trainer(max_steps=None, max_epochs=3).steps(batching()) == 15
    episodes = EpisodeBatching(Augmentation({}), n_way=2, k_shot=1, n_query=1, tasks_per_batch=2)
    with pytest.raises(ValueError, match="no epoch"):
        trainer(max_steps=None, max_epochs=3).steps(episodes)


def test_every_epoch_sees_each_image_at_most_once():
    made = batching()
    for epoch in range(2):
        seen = torch.cat([made.batch(epoch * 5 + step).indices for step in range(5)])
        assert sorted(seen.tolist()) == list(range(40))
    assert not torch.equal(made.batch(0).indices, made.batch(5).indices)


def test_a_batch_larger_than_the_dataset_is_refused():
    made = ViewBatching(Augmentation({}), batch_size=64, views=2)
    with pytest.raises(ValueError, match="batch_size=64, but random/train has 40 images"):
        made.bind(dataset(), 0, torch.device("cpu"))


def test_episodes_have_the_configured_sizes_and_distinct_images():
    made = EpisodeBatching(Augmentation({}), n_way=3, k_shot=2, n_query=4, tasks_per_batch=5)
    made.bind(dataset(), seed=0, device=torch.device("cpu"))
    batch = made.batch(7)
    assert isinstance(batch, Episodes)
    assert batch.support_images.shape == (5, 6, 1, 8, 8)
    assert batch.query_images.shape == (5, 12, 1, 8, 8)
    again = made.batch(7)
    assert torch.equal(batch.support_images, again.support_images)
    images = torch.cat([batch.support_images, batch.query_images], dim=1).flatten(2)
    for task in range(5):
        assert len(images[task].unique(dim=0)) == 18
