"""Steps as CUDA graphs, and what a step may ask of its position to be recorded. Tests of a GPU skip without one."""

import copy

import pytest
import torch

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.data.augmentation import transform
from ssl_runner.runs.tracking import Silence
from ssl_runner.runtime.step_context import StepContext
from ssl_runner.training import recording
from ssl_runner.training.ahead import Ahead
from ssl_runner.training.loop import Loop
from ssl_runner.training.recording import Inputs, Needs, Observed
from ssl_runner.wiring import wire

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SMALL = ["dataset=digits", "model/encoder=conv4", "model.encoder.width=16", "batching.batch_size=32"]
VIEWS = {name: [f"experiment={name}_cifar10", *SMALL, "augmentation=glyph"] for name in ("byol", "dino")}
VIEWS |= {"simclr": ["experiment=simclr_digits", "model.encoder.width=16", "batching.batch_size=32"]}
VIEWS |= {"lejepa": [*VIEWS["byol"][1:], "experiment=lejepa_cifar10"]}
QUERIES = ["batching.n_query=2", "batching.tasks_per_batch=4"]
EPISODES = {
    name: [f"experiment={name}_omniglot", "dataset=digits", "model.encoder.width=16", "batching.n_way=3", *QUERIES]
    for name in ("protonet", "maml")
}
ALIKE = [
    "trainer.device=cuda",
    "trainer.max_epochs=null",
    "trainer.max_steps=12",
    "eval=[]",
    "trainer.diagnostics_every=null",
]


def wired(words: list[str], compile: str = "auto"):
    config, _ = validate.checked_config(Composer(conf_folder()), [*words, *ALIKE, f"trainer.compile={compile}"])
    return wire.wire(config)


def trained(words: list[str], folder, compile: str = "auto", resumed=None) -> tuple[Loop, dict[str, torch.Tensor]]:
    # Adam would make a step of its full length of a gradient that is only rounding
    run = wired([*words, "trainer.checkpoint_every=6", "optimizer=sgd", "optimizer.lr=0.05"], compile)
    folder.mkdir()
    loop = Loop(run, folder, Silence(), resumed)
    used = loop.gradients
    with run.trainer.process_settings():
        loop.run_to_the_end()
    loop.gradients = used
    return loop, copy.deepcopy(run.algorithm.state_dict())


def context(step: int = 30) -> StepContext:
    return StepContext(step, 100, 7, torch.device("cpu"))


def test_an_observed_step_gets_what_it_would_get_anyway():
    seen = Observed(context(), Needs())
    assert seen.reached(0.3) and not seen.reached(0.31)
    assert seen.follow(lambda progress: 2 * progress) == 0.6
    assert torch.equal(
        torch.rand(5, generator=seen.generator("draws")), torch.rand(5, generator=context().generator("draws"))
    )


def test_needs_are_noted_in_order():
    needs = Needs()
    seen = Observed(context(), needs)
    seen.generator("first"), seen.generator("second"), seen.reached(0.5)
    assert needs == Needs(streams=["first", "second"], shares={0.5}, position="")


@pytest.mark.parametrize("name", recording.POSITION)
def test_a_step_that_reads_its_position_itself_is_noticed(name):
    needs = Needs()
    getattr(Observed(context(), needs), name)
    assert needs.position == name


def test_seed_and_device_do_not_count_as_position():
    needs = Needs()
    seen = Observed(context(), needs)
    assert (seen.seed, seen.device) == (7, torch.device("cpu")) and needs == Needs()


def test_renewed_inputs_are_those_of_the_step():
    inputs = Inputs([("draws", torch.Generator())])
    seen = Observed(context(30), Needs(), inputs)
    followed, generator = seen.follow(lambda progress: 10 * progress), seen.generator("draws")
    for step in (30, 40, 95):
        inputs.renew(context(step))
        assert followed == pytest.approx(step / 10)
        expected = torch.rand(4, generator=context(step).generator("draws"))
        assert torch.equal(torch.rand(4, generator=generator), expected)


def test_asking_for_more_generators_than_before_is_refused():
    seen = Observed(context(), Needs(), Inputs([]))
    with pytest.raises(RuntimeError, match="in some steps only"):
        seen.generator("draws")


@pytest.mark.parametrize("augmentation", ["simclr", "glyph", "light"])
def test_all_rows_with_the_chosen_taken_equal_the_chosen_rows_alone(augmentation, monkeypatch):
    words = ["dataset=digits", "dataset.channels=3", f"augmentation={augmentation}"]
    config, _ = validate.checked_config(Composer(conf_folder()), [*words, "trainer.device=cpu", "eval=[]"])
    from ssl_runner.config.building import build

    change = build(config["augmentation"], "augmentation")
    images = torch.rand(64, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(64, change.columns, generator=torch.Generator().manual_seed(1))
    expected = change(images, draws)
    monkeypatch.setattr(transform, "_unknown", lambda chosen: True)
    torch.testing.assert_close(change(images, draws), expected, rtol=0, atol=1e-6)


def test_elsewhere_than_on_cuda_batches_are_made_when_they_are_asked_for():
    asked = []

    class Counting:
        def batch(self, step):
            asked.append(step)
            return step

    ahead = Ahead(Counting(), torch.device("cpu"), 3)  # type: ignore[arg-type]
    ahead.make(0)
    assert ahead.batch(0) == 0 and asked == [0]


@on_gpu
@pytest.mark.parametrize("name", [*VIEWS, *EPISODES])
def test_a_recorded_run_equals_one_that_is_launched(name, tmp_path):
    words = (VIEWS | EPISODES)[name]
    loop, recorded = trained(words, tmp_path / "recorded")
    _, launched = trained(words, tmp_path / "launched", "false")
    assert loop.gradients.told == "" and any(graph.graph for graph in loop.gradients.graphs.values())
    for key, value in recorded.items():
        torch.testing.assert_close(value, launched[key], rtol=2e-3, atol=2e-4)


@on_gpu
@pytest.mark.parametrize("name", ["simclr", "dino", "maml"])
def test_a_resumed_recorded_run_equals_an_unbroken_one_bit_for_bit(name, tmp_path):
    words = [*(VIEWS | EPISODES)[name], "trainer.cudnn_benchmark=false"]
    _, whole = trained(words, tmp_path / "whole")
    state = torch.load(tmp_path / "whole" / "checkpoints" / "previous.pt", weights_only=True, map_location="cuda")
    assert state["step"] == 6
    _, resumed = trained(words, tmp_path / "resumed", resumed=state)
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


@on_gpu
@pytest.mark.parametrize("name", [*VIEWS, *EPISODES])
def test_nothing_waits_for_the_gpu_between_two_log_points(name, tmp_path):
    run = wired((VIEWS | EPISODES)[name])
    loop = Loop(run, tmp_path, Silence(), None)
    run.algorithm.train()
    for step in range(6):
        loop._step(step, measure=False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(6, 12):
            loop._step(step, measure=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
def test_views_made_on_the_gpu_are_those_of_the_cpu():
    words = ["experiment=simclr_cifar10", "dataset=digits", "dataset.channels=3", "batching.batch_size=128"]
    here, there = wired([*words, "trainer.precision=float32"]), None
    config, _ = validate.checked_config(Composer(conf_folder()), [*words, *ALIKE, "trainer.device=cpu"])
    there = wire.wire(config)
    for step in range(3):
        views, expected = (run.batching.batch(step).crops[0].cpu().flatten(0, 1) for run in (here, there))
        # a box's side may be rounded to the other side of a half
        apart = (views - expected).abs().amax(dim=(1, 2, 3)) > 1e-4
        assert apart.float().mean() < 0.01
