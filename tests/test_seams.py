"""New kinds of methods need no change to trainer or entry point: five doubles, end to end on real digits."""

import json
import re

import pytest
import torch

from ssl_runner import train
from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.errors import ConfigError, ResumeError
from ssl_runner.models.saving import load_encoder

SMALL = [
    "model.encoder.width=8",
    "model.head.hidden_features=16",
    "model.head.out_features=8",
    "trainer.max_epochs=null",
    "trainer.max_steps=4",
    "trainer.checkpoint_every=2",
    "trainer.log_every=1",
    "trainer.progress=false",
    "eval=[few_shot]",
    "eval.few_shot.episodes=10",
    "baselines=[untrained]",
    "batching.batch_size=32",
]
EPISODES = [item for item in SMALL if "head" not in item and "batch_size" not in item] + [
    "batching=episodes_5w1s",
    "batching.tasks_per_batch=2",
    "batching.n_query=2",
    "loss=cross_entropy",
    "dataset.split=classes",
]

PLAIN_SGD = ["optimizer=sgd", "optimizer.lr=1.0", "optimizer.momentum=0", "optimizer.weight_decay=0"]

DOUBLES = {
    "MomentumQueue": (SMALL, {"momentum": 0.9, "size": 80}, {"loss": "QueueLoss"}),
    "MultiCrop": (SMALL, {}, {"loss": "LocalToGlobal"}),
    "Reptile": (
        [*EPISODES, "model/head=linear", *PLAIN_SGD],
        {"inner_lr": 0.1, "inner_steps": 2},
        {},
    ),
    "Sequence": ([*EPISODES, "model/head=identity"], {"width": 16}, {}),
    "FittedInClassify": (
        [item for item in SMALL if "head" not in item]
        + ["batching=labelled", "loss=cross_entropy", "model/head=linear"],
        {"steps": 5},
        {},
    ),
}


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "doubles")


def config(name: str, **changes) -> dict:
    overrides, arguments, losses = DOUBLES[name]
    plain, _ = validate.checked_config(Composer(conf_folder()), overrides)
    plain["algorithm"] = {"_target_": f"doubles.{name}", **arguments}
    if "loss" in losses:
        plain["loss"] = {"_target_": f"doubles.{losses['loss']}"}
    if name == "MultiCrop":
        plain["batching"] = {"_target_": "doubles.MultiCropBatching", "batch_size": 32, "local_views": 3}
    for key, value in changes.items():
        plain["trainer"][key] = value
    return plain


def state(folder) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def logged(folder) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]  # step 0 has only diagnostics
    return rows[1:]


@pytest.mark.parametrize("name", DOUBLES)
def test_a_double_trains_evaluates_and_resumes_bitwise(name, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result = train.run(config(name), whole)
    assert result["status"] == "finished"
    assert 0 <= result["metrics"]["few_shot/5w1s/top1"] <= 1
    assert load_encoder(whole)(torch.zeros(1, 1, 28, 28)).shape[0] == 1

    from ssl_runner.training import trainer

    original = trainer.Trainer.step

    def crash(self, algorithm, batch, optimizer, context, *more):
        if context.step == 3:
            raise KeyboardInterrupt
        return original(self, algorithm, batch, optimizer, context, *more)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", crash)
        with pytest.raises(KeyboardInterrupt):
            train.run(config(name), cut)
    assert state(cut)["step"] == 2
    again = train.run(config(name) | {"resume": "auto"}, cut)
    assert again["metrics"] == result["metrics"]
    for key, value in state(whole)["algorithm"].items():
        assert torch.equal(value, state(cut)["algorithm"][key]), key


def test_the_queue_holds_the_teachers_last_embeddings_and_the_teacher_is_evaluated(tmp_path):
    train.run(config("MomentumQueue"), tmp_path)
    held = state(tmp_path)["algorithm"]
    assert held["filled"] == 80
    assert held["pointer"] == 4 * 32 % 80
    assert not (held["queue"] == 0).all(dim=1).any()
    product = load_encoder(tmp_path).state_dict()
    for key, value in product.items():
        assert torch.equal(value, held[f"teacher.encoder.{key}"]), key
    assert any(not torch.equal(value, held[f"network.encoder.{key}"]) for key, value in product.items())


def test_the_loss_sees_every_view_of_every_resolution(tmp_path):
    train.run(config("MultiCrop"), tmp_path)
    rows = logged(tmp_path)
    assert {row["train/views"] for row in rows} == {5}


def test_a_surrogate_logs_the_real_loss_and_refuses_settings_that_would_change_its_update(tmp_path):
    train.run(config("Reptile"), tmp_path)
    rows = logged(tmp_path)
    assert all(0.1 < row["train/loss"] < 5 for row in rows)
    bent = config("Reptile", gradient_clip_norm=1.0)
    bent["optimizer"]["momentum"] = 0.9
    with pytest.raises(ConfigError) as refusal:
        train.run(bent, tmp_path)
    assert len(refusal.value.problems) == 2


def test_a_loss_that_needs_a_teacher_is_refused_without_one(tmp_path):
    lonely = config("MomentumQueue")
    lonely["algorithm"] = {"_target_": "ssl_runner.algorithms.contrastive.Contrastive"}
    with pytest.raises(ConfigError, match="needs memory_bank, target"):
        train.run(lonely, tmp_path)


def test_batches_of_another_kind_are_refused(tmp_path):
    wrong = config("Sequence")
    wrong["batching"] = {"_target_": "ssl_runner.data.batching.view_batching.ViewBatching", "batch_size": 8, "views": 2}
    with pytest.raises(ConfigError, match="takes Episodes, but batching makes Views"):
        train.run(wrong, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=protonet_digits", "loss=nt_xent"], "gives logits"),
        (["loss=cross_entropy"], "gives embeddings"),
        (["experiment=supervised_mnist", "dataset=digits", "model/head=projector"], "one output per class"),
        (["loss=pairwise", "batching.views=1", "loss=nt_xent"], "compares 2 views, but batching makes 1"),
        (["trainer.accumulate_grad_batches=2"], "cannot be cut"),
        (["seed=-1"], "seed=-1"),
        (["baselines=[pixels]"], "'pixels' is not one of raw_pixels, untrained"),
        (["experiment=protonet_digits", "batching.n_way=50"], "n_way=50, but split 'train' of digits has 5 classes"),
        (["experiment=protonet_digits", "eval.few_shot.settings=[20w1s]"], "n_way=20, but split 'test' of digits"),
        (["batching.batch_size=5000"], "has 1168 images"),
    ],
)
def test_parts_that_do_not_fit_are_reported_before_training(overrides, message, tmp_path):
    plain, _ = validate.checked_config(Composer(conf_folder()), overrides)
    with pytest.raises(ValueError, match=re.escape(message)):
        train.run(plain, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    train.run(config("FittedInClassify"), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(ResumeError, match="already holds a run"):
        train.run(config("FittedInClassify"), tmp_path)
    again = train.run(config("FittedInClassify") | {"resume": "auto"}, tmp_path)
    assert again == json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "metrics.jsonl").read_text() == before
