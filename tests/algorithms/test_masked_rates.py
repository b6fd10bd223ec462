"""Rates of a masked student: its parameter groups, its teacher's momentum, and who drops paths."""

import pytest
import torch

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.wiring import wire

IJEPA = [
    *("model/encoder=vit_tiny", "model/head=identity", "algorithm=masked", "batching=labelled", "optimizer=adamw"),
    *("loss=smooth_l1", "masking=multi_block", "algorithm/target=features", "model.encoder.patch_size=4"),
    *("batching.batch_size=4", "augmentation=none", "eval=[]", "baselines=[]"),
    *("trainer.max_epochs=null", "trainer.max_steps=4", "trainer.log_every=1", "trainer.diagnostics_every=null"),
    *("trainer.progress=false", "trainer.device=cpu"),
]
CONF = Composer(conf_folder())


def config(*more: str) -> dict:
    return validate.checked_config(CONF, [*IJEPA, *more])[0]


def test_the_encoders_layers_have_their_rates_and_the_predictor_the_whole_one():
    run = wire.wire(config("algorithm.layer_decay=0.9", "algorithm.patch_embed_lr=0.2", "optimizer.lr=0.01"))
    body, predictor = run.algorithm.encoder.body, run.algorithm.predictor
    rate = {id(p): group["initial_lr"] for group in run.optimizer.param_groups for p in group["params"]}
    trained = {id(p) for p in run.algorithm.parameters() if p.requires_grad}
    assert rate.keys() == trained
    assert rate[id(body.patch_embed.proj.weight)] == pytest.approx(0.01 * 0.9**13 * 0.2)
    assert rate[id(body.cls_token)] == pytest.approx(0.01 * 0.9**13)
    assert rate[id(body.blocks[0].attn.qkv.weight)] == pytest.approx(0.01 * 0.9**12)
    assert rate[id(body.blocks[11].mlp.fc1.bias)] == pytest.approx(0.01 * 0.9)
    assert {rate[id(p)] for p in predictor.parameters()} == {0.01}
    assert run.optimizer.param_groups[0]["initial_lr"] == 0.01  # the one that is logged


def test_the_mask_token_has_the_rate_of_the_patches_positions():
    words = ["algorithm.hidden=replaced", "algorithm/predictor=linear", "algorithm.layer_decay=0.5", "masking=random"]
    algorithm = wire.wire(config(*words)).algorithm
    group = next(g for g in algorithm.parameter_groups() if any(p is algorithm.mask_token for p in g["params"]))
    assert group["lr_factor"] == 0.5**13 and group["weight_decay"] == 0


def test_without_layer_decay_the_groups_are_those_of_any_algorithm():
    algorithm = wire.wire(config()).algorithm
    assert [group.keys() for group in algorithm.parameter_groups()] == [{"params"}, {"params", "weight_decay"}]


@pytest.mark.parametrize(("schedule", "quarter"), [("cosine", 1 - 0.004 * (1 + 2**-0.5) / 2), ("linear", 0.997)])
def test_momentum_rises_as_configured(schedule, quarter):
    words = [f"algorithm.momentum_schedule={schedule}", "algorithm.momentum=0.996"]
    algorithm = wire.wire(config(*words)).algorithm
    at = [algorithm.momentum_at(StepContext(step, 8, 0, torch.device("cpu"))) for step in (0, 2, 4)]
    assert at == pytest.approx([0.996, quarter, 0.998])


def test_the_student_drops_paths_and_the_teacher_none():
    algorithm = wire.wire(config("model.encoder.drop_path=0.5")).algorithm.train()
    images = torch.rand(4, 1, 20, 20)
    teacher, student = algorithm.teacher.encoder.backbone, algorithm.encoder
    assert torch.equal(teacher.tokens(images).patches, teacher.tokens(images).patches)
    assert not torch.equal(student.tokens(images).patches, student.tokens(images).patches)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("algorithm.layer_decay=1.5", "layer_decay=1.5"),
        ("algorithm.momentum_schedule=square", "cosine.*linear"),
        ("scheduler.final_weight_decay=-1", "final_weight_decay=-1"),
    ],
)
def test_impossible_rates_are_refused_before_training(word, message):
    with pytest.raises(ValueError, match=message):
        wire.wire(config(word))


def test_a_final_weight_decay_needs_one_to_start_from():
    with pytest.raises(ValueError, match="starts without weight decay; set "):
        wire.wire(config("scheduler.final_weight_decay=0.4", "optimizer.weight_decay=0"))
