"""A run whose weights are divided among processes equals the one whose weights are not."""

import json
from pathlib import Path

import children
import pytest
import torch
from safetensors.torch import load_file
from sharded import CASES, measure
from torch import nn

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.errors import UserError
from ssl_runner.models.network import Encoder, Network
from ssl_runner.training import sharding

DOUBLE = sorted(name for name in CASES if "SGD" not in name)
SINGLE = sorted(name for name in CASES if "LARS" not in name)
CHECKPOINTED = sorted(name for name in CASES if "ViT" in name)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What two processes measured."""
    out = tmp_path_factory.mktemp("two") / "found.json"
    ended = [child.ended() for child in children.pair(out.parent, measure, out)]
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    return json.loads(out.read_text())


@pytest.mark.parametrize("case", DOUBLE)
def test_weights_buffers_moments_and_gradient_norms_after_four_steps_are_those_without_sharding(case, found):
    measured = found[case]["double"]
    assert measured["norm"] < 1e-10
    assert measured["state"] < (
        1e-6 if "AdamW" in case or "MAE" in case else 1e-10
    )  # Adam turns roundings of a zero gradient into steps


@pytest.mark.parametrize("case", SINGLE)
def test_in_float32_they_agree_to_its_rounding(case, found):
    """With LARS a step's rate is rounded otherwise, and a network with kinks parts from there."""
    assert found[case]["single"]["norm"] < 1e-4
    assert found[case]["single"]["state"] < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_each_process_holds_half_of_the_weights_and_of_the_optimizers_state(case, found):
    measured = next(iter(found[case].values()))
    assert 0.5 <= measured["held"] < 0.52
    assert measured["blocks"] > 1


@pytest.mark.parametrize("case", CHECKPOINTED)
@pytest.mark.parametrize("way", ["sharded to unsharded", "unsharded to sharded"])
def test_a_checkpoint_gives_every_weight_and_moment_back_bitwise(case, way, found):
    assert found[case][way] is True


RUN = [
    "experiment=simclr_digits",
    "dataset=digits",
    "dataset.size=16",
    "model.encoder.width=8",
    "model.head.hidden_features=16",
    "batching.batch_size=64",
    "trainer.threads=1",
    "trainer.channels_last=false",
    "trainer.max_epochs=null",
    "trainer.max_steps=6",
    "trainer.log_every=1",
    "trainer.checkpoint_every=3",
    "trainer.diagnostics_every=2",
    "trainer.stop_on_collapse=true",
    "trainer.evaluate_every=3",
    "trainer.select=knn/top1",
    "trainer.progress=false",
    "eval=[knn]",
    "baselines=[untrained]",
]


def run(tmp_path: Path, name: str, *words: str) -> Path:
    folder = tmp_path / name
    ended = [
        child.ended()
        for child in children.pair(tmp_path / "logs", children.type_in, [*words, f"hydra.run.dir={folder}"])
    ]
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    return folder


def last(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def scores(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    return {name: value for name, value in metrics.items() if "seconds" not in name and not name.startswith("time/")}


def rows(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in found]


def test_a_sharded_run_logs_saves_exports_and_scores_what_an_unsharded_one_does(tmp_path):
    one, two = run(tmp_path, "whole", *RUN), run(tmp_path, "sharded", *RUN, "trainer.shard=true")
    assert rows(two) == [pytest.approx(row, rel=1e-4, abs=1e-5) for row in rows(one)]
    assert scores(two) == pytest.approx(scores(one), abs=0.01)
    for name, value in last(one)["algorithm"].items():
        torch.testing.assert_close(last(two)["algorithm"][name], value, rtol=1e-5, atol=1e-6)
    selected = torch.load(two / "checkpoints" / "best.pt", weights_only=True)
    for name, value in load_file(two / "encoder.safetensors").items():
        assert torch.equal(selected[f"network.encoder.{name}"], value)


def test_a_sharded_run_is_resumed_without_sharding_and_the_reverse(tmp_path):
    constant = [*RUN, "scheduler=constant", "trainer.select=null", "trainer.evaluate_every=null"]
    whole = run(tmp_path, "whole", *constant, "trainer.max_steps=8")
    for first, then in (("true", "false"), ("false", "true")):
        folder = run(tmp_path, first, *constant, f"trainer.shard={first}", "trainer.max_steps=4")
        words = [f"resume={folder}", f"trainer.shard={then}", "trainer.max_steps=8"]
        ended = [child.ended() for child in children.pair(tmp_path / "logs", children.type_in, words)]
        assert [one.code for one in ended] == [0, 0], ended[0].err
        assert last(folder)["step"] == 8
        for name, value in last(whole)["algorithm"].items():
            torch.testing.assert_close(last(folder)["algorithm"][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["experiment=simclr_digits"],
            "divides the weights among processes, but there is one; start several (torchrun",
        ),
        (["experiment=maml_omniglot", "dataset=digits"], "MAML adapts copies of the weights in its inner loop"),
        (["experiment=simclr_digits", "trainer.compile=true"], "set trainer.compile=auto"),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_the_run(words, message, tmp_path):
    ended = children.command(tmp_path / "logs", [*words, "trainer.shard=true", f"hydra.run.dir={tmp_path / 'run'}"])
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()


class Backbone(nn.Module):
    out_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(3)))


class Bare(Algorithm):
    def training_step(self, batch, context):
        raise NotImplementedError


def bare() -> Bare:
    return Bare(Network(Encoder(Backbone(), (1, 2, 2), [0.0], [1.0]), nn.Linear(4, 2)))


def test_blocks_are_the_innermost_elements_of_lists_that_hold_several_layers():
    algorithm = bare()
    body = algorithm.network.encoder.backbone.body
    assert sharding.blocks(algorithm) == [*body]
    assert sharding.blocks(nn.Sequential(algorithm, nn.Linear(2, 2))) == [*body]


def test_weights_without_rows_and_weights_shared_by_blocks_are_refused():
    sharding.refuse_weights(bare())
    within = bare()
    first, second, _ = within.network.encoder.backbone.body
    first[1].weight = first[0].weight
    sharding.refuse_weights(within)
    second[0].weight = first[0].weight
    with pytest.raises(UserError, match=r"body\.1\.0\.weight is also .*body\.0\.0\.weight"):
        sharding.refuse_weights(within)
    scalar = bare()
    scalar.temperature = nn.Parameter(torch.zeros(()))
    with pytest.raises(UserError, match="temperature is one number, which has no rows"):
        sharding.refuse_weights(scalar)
