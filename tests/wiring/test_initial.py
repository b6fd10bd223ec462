"""Runs that begin from weights: under every kind of algorithm, frozen or not, and what is refused."""

import json
import re
import shutil

import pytest
import timm
import torch
from run_folders import EPISODES, VIEWS
from safetensors.torch import load_file
from small_vits import METHODS as small_vits
from small_vits import RUN

import ssl_runner
from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.comparison.configs import Configs
from ssl_runner.config.hashing import setting_hash
from ssl_runner.errors import ConfigError
from ssl_runner.models.network import Encoder
from ssl_runner.report import preflight
from ssl_runner.training.run import Run
from ssl_runner.wiring import wire

MOMENTUM = [*VIEWS, "algorithm=momentum", "loss=info_nce"]
PROTONET = [*EPISODES, "algorithm=protonet", "model/head=identity"]
MAML = [*EPISODES, "algorithm=maml", "model/head=linear"]
R2D2 = [*EPISODES, "algorithm=r2d2", "model/head=identity"]
METHODS = {"simclr": VIEWS, "momentum": MOMENTUM, "protonet": PROTONET, "maml": MAML, "r2d2": R2D2}
FREEZABLE = {name: words for name, words in METHODS.items() if name in ("simclr", "momentum", "r2d2")}


def without_scores(words):
    return [*(word for word in words if not word.startswith(("eval", "baselines"))), "eval=[]", "baselines=[]"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of SimCLR on digits of 16 pixels."""
    return ssl_runner.train(without_scores(VIEWS), tmp_path_factory.mktemp("source") / "run").folder


def wired(words, init=None, *more: str) -> Run:
    begin = [] if init is None else [f"init={init}"]
    return wire.wire(ssl_runner.compose([*words, *begin, *more]))


def encoders(algorithm: Algorithm) -> list[Encoder]:
    return [part for part in algorithm.modules() if isinstance(part, Encoder)]


def copied(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("method", METHODS)
def test_any_algorithm_begins_from_a_runs_encoder_and_so_does_its_teacher(method, source):
    run = wired(METHODS[method], source)
    expected = load_file(source / "encoder.safetensors")
    found = encoders(run.algorithm)
    assert len(found) == (2 if method == "momentum" else 1)
    for encoder in found:
        assert_same(encoder.state_dict(), expected)
    plain = wired(METHODS[method])
    own, other = ({n: v for n, v in r.algorithm.state_dict().items() if "encoder." not in n} for r in (run, plain))
    assert_same(own, other)  # the rest is drawn as without weights


@pytest.mark.parametrize("what", ["encoder.safetensors", "checkpoints/last.pt"])
def test_files_of_a_run_give_the_same_as_the_run(what, source):
    run, file = wired(VIEWS, source), wired(VIEWS, source / what)
    assert_same(file.algorithm.state_dict(), run.algorithm.state_dict())
    assert file.begun.facts["fingerprint"] == run.begun.facts["fingerprint"]
    assert file.identity.config_hash == run.identity.config_hash


def test_the_checkpoint_of_a_run_whose_product_is_the_teacher_gives_the_teacher(tmp_path):
    words = [*without_scores(MOMENTUM), "algorithm.product=teacher", "algorithm.momentum=0.5"]
    folder = ssl_runner.train(words, tmp_path / "run").folder
    for place in (folder, folder / "checkpoints" / "last.pt"):
        begun = wired(VIEWS, place).algorithm.network.encoder
        assert_same(begun.state_dict(), load_file(folder / "encoder.safetensors"))


def test_timm_begins_from_a_file_of_a_whole_model(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = timm.create_model("test_resnet", in_chans=1)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    words = [word for word in VIEWS if not word.startswith("model.encoder")]
    words += ["dataset.size=32", "model/encoder=timm", "model.encoder.name=test_resnet"]
    run = wired(words, f"timm:test_resnet@{tmp_path / 'weights.pth'}")
    own, theirs = run.algorithm.network.encoder.backbone.body.state_dict(), model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    assert run.begun.facts["kind"] == "timm"
    with pytest.raises(ConfigError, match=r"is not model\.encoder \(Conv4\); set model/encoder=timm model\.encoder\."):
        wired(VIEWS, "timm:test_resnet")
    with pytest.raises(ConfigError, match=r"timm:resnet188: timm .* has no such model; did you mean 'resnet18'\?"):
        wired(VIEWS, "timm:resnet188")
    with pytest.raises(ConfigError, match=r"set model\.encoder\.pretrained=false"):
        wired(words, "timm:test_resnet", "model.encoder.pretrained=true")


@pytest.mark.parametrize("method", FREEZABLE)
def test_a_frozen_encoder_is_equal_to_the_last_bit_after_steps_and_the_rest_learns(method, source):
    run = wired(FREEZABLE[method], source, "init.freeze=true")
    before = copied(run.algorithm)
    for step in range(3):
        run.one_step()
        assert all(not encoder.training for encoder in encoders(run.algorithm)), step
    after = run.algorithm.state_dict()
    assert_same(
        {n: v for n, v in after.items() if "encoder." in n}, {n: v for n, v in before.items() if "encoder." in n}
    )
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    ids = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert not ids & {id(p) for encoder in encoders(run.algorithm) for p in encoder.parameters()}
    assert all(p.grad is None for encoder in encoders(run.algorithm) for p in encoder.parameters())


def test_without_freezing_the_encoder_learns(source):
    run = wired(VIEWS, source)
    before = copied(run.algorithm.network.encoder.backbone)
    run.one_step()
    after = run.algorithm.network.encoder.backbone.state_dict()
    assert not all(torch.equal(value, before[name]) for name, value in after.items())


def test_freezing_is_refused_where_nothing_is_left_where_the_encoder_adapts_and_without_weights(source):
    with pytest.raises(
        ConfigError, match=r"init\.freeze=true, but ProtoNet has nothing else to train; choose a model/h"
    ):
        wired(PROTONET, source, "init.freeze=true")
    with pytest.raises(ConfigError, match=r"init\.freeze=true, but MAML adapts the encoder within each task"):
        wired(MAML, source, "init.freeze=true")
    with pytest.raises(ConfigError, match=r"keeps the encoder as it is, which is random; give init=RUN"):
        wired(VIEWS, None, "init.freeze=true")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["model.encoder.width=4"], ["has shape (8, 1, 3, 3), expected (4, 1, 3, 3)"]),
        (["model/encoder=resnet18"], ["missing: backbone.body", "unexpected: backbone.blocks.0.0.weight"]),
        (["dataset.channels=3"], ["they were trained on images of 1 x 16 x 16, these are 3 x 16 x 16"]),
    ],
)
def test_weights_of_another_architecture_are_refused_and_the_remedy_works(changes, parts, source):
    others = [w for w in VIEWS if changes[0] != "model/encoder=resnet18" or not w.startswith("model.encoder")]
    with pytest.raises(ConfigError) as refused:
        wired(others, source, *changes)
    (problem,) = refused.value.problems
    assert problem.startswith(f"init: {source}: they do not fit")
    for part in parts:
        assert part in problem
    remedy = re.findall(r"(?:model|dataset)[/.]\S+=\S+", problem.rpartition("; ")[2])
    kept = [word for word in [*others, *changes] if word.partition("=")[0] not in ("model/encoder", "dataset.channels")]
    assert wired(kept, source, *remedy).begun is not None


def test_settings_that_change_features_but_not_weights_are_told(source):
    run = wired(VIEWS, source, "model.encoder.grid=1")
    assert run.begun.facts["encoder"] == {"grid": [2, 1]}


def test_weights_that_have_changed_since_are_refused(source):
    config = ssl_runner.compose([*VIEWS, f"init={source}"])
    config["init"]["fingerprint"] = "0123456789abcdef"
    with pytest.raises(ConfigError, match=r"expected 0123456789abcdef; restore the weights, or set init\.fingerprint="):
        wire.wire(config)


def test_the_result_says_what_it_began_from_and_untrained_stays_random(source, tmp_path):
    words = [*VIEWS, "trainer.max_steps=1"]  # with few_shot, and the baseline untrained
    begun = ssl_runner.train([*words, f"init={source}"], tmp_path / "begun")
    plain = ssl_runner.train(words, tmp_path / "plain")
    facts = begun.result["init"]
    before = json.loads((source / "result.json").read_text())
    assert facts["run"] == {
        "folder": str(source),
        "name": "simclr_digits",
        "config_hash": before["config_hash"],
        "seed": 0,
        "setting": setting_hash(Configs().read(source / "config.yaml")),  # as a report reads it
    }
    assert facts["weights"] == str(source)
    assert facts["fingerprint"] == begun.config["init"]["fingerprint"]
    assert facts["sources"] == ["digits"]
    assert "init" not in plain.result
    assert (
        begun.result["metrics"]["untrained/few_shot/5w1s/top1"]
        == plain.result["metrics"]["untrained/few_shot/5w1s/top1"]
    )
    assert begun.result["config_hash"] != plain.result["config_hash"]


def seen(words, init) -> tuple[str, tuple[str, ...]]:
    run = wired(words, init)
    return run.description()["protocols"]["few_shot"]["classes"], run.cautions


def test_held_out_classes_that_the_weights_have_seen_are_not_called_unseen(source, tmp_path):
    assert seen(PROTONET, None) == ("unseen", ())
    classes, (caution,) = seen(PROTONET, source)
    assert classes == "seen"
    assert "weights of other images of digits, split by images: they may have seen its test images" in caution
    same = ssl_runner.train([*without_scores(VIEWS), "dataset.split=classes"], tmp_path / "same").folder
    assert seen(PROTONET, same) == ("unseen", ())
    torch.save(load_file(same / "encoder.safetensors"), tmp_path / "bare.pt")
    assert seen(PROTONET, tmp_path / "bare.pt") == ("unknown", ())
    origin = wired(PROTONET, tmp_path / "bare.pt")._origin()
    assert json.loads(origin["sources"]) is None
    assert json.loads(wired(PROTONET, same)._origin()["sources"]) == ["digits"]


def test_an_evaluation_afterwards_knows_what_a_run_began_from(source, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    for init, expected in ((source, "seen"), (None, "unseen")):
        words = [*PROTONET, "eval=[few_shot]", "baselines=[]", *([] if init is None else [f"init={init}"])]
        run = ssl_runner.train(words, tmp_path / expected).folder
        own = ssl_runner.evaluate(run).only
        assert own.content["own_dataset"] and own.protocols["few_shot"]["classes"] == expected
        stated = json.loads((run / "result.json").read_text())["protocols"]["few_shot"]
        assert own.protocols["few_shot"] == stated


class Stopped(Exception):
    pass


def stop_at(step: int, monkeypatch) -> None:
    from ssl_runner.training.trainer import Trainer

    original = Trainer.step

    def stopping(self, *given, **named):
        if given[3].step == step:
            raise Stopped
        return original(self, *given, **named)

    monkeypatch.setattr(Trainer, "step", stopping)


@pytest.mark.parametrize("freeze", ["false", "true"])
def test_a_stopped_run_goes_on_to_the_last_bit_without_the_weights_file(freeze, source, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(source, gone)
    words = [*MOMENTUM, f"init={gone}", f"init.freeze={freeze}"]
    whole = ssl_runner.train(words, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_at(4, patch)
        ssl_runner.train(words, tmp_path / "stopped")
    shutil.rmtree(gone)
    resumed = ssl_runner.train(f"resume={tmp_path / 'stopped'}")
    assert_same(load_file(resumed.folder / "encoder.safetensors"), load_file(whole.folder / "encoder.safetensors"))
    ends = [torch.load(one.folder / "checkpoints" / "last.pt", weights_only=True) for one in (resumed, whole)]
    assert_same(ends[0]["algorithm"], ends[1]["algorithm"])
    assert resumed.result["metrics"] == whole.result["metrics"]
    assert resumed.result["init"] == whole.result["init"]
    assert resumed.result["config_hash"] == whole.result["config_hash"]


def test_resuming_automatically_needs_the_file_only_where_there_is_nothing_to_go_on_from(source, tmp_path):
    gone = tmp_path / "gone.safetensors"
    shutil.copy(source / "encoder.safetensors", gone)
    config = ssl_runner.compose([*without_scores(VIEWS), f"init={gone}"])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_at(4, patch)
        ssl_runner.train(config, tmp_path / "run")
    gone.unlink()
    from ssl_runner import train

    assert train.run(config | {"resume": "auto"}, tmp_path / "run")["status"] == "finished"
    with pytest.raises(ConfigError, match=r"init: .*gone\.safetensors does not exist"):
        train.run(config | {"resume": "auto"}, tmp_path / "new")


def test_the_summary_before_the_run_says_what_it_begins_from(source):
    lines = preflight.lines(wired(VIEWS, source, "init.freeze=true", "model.encoder.grid=1"), None, 0)
    assert lines["begins from"].startswith(f"{source} (simclr_digits, seed 0), fingerprint ")
    assert lines["begins from"].endswith(", frozen; its settings differ: grid: 2 -> 1")
    assert "frozen parameters beside" in lines["encoder"]
    assert "begins from" not in preflight.lines(wired(VIEWS), None, 0)


def test_a_method_that_goes_on_from_weights_warns_without_them_and_says_how_to_make_some(source):
    words = [*PROTONET, "algorithm=pmf"]
    (caution,) = wired(words).cautions
    assert "PMF goes on from pre-trained weights, but this encoder begins from random ones" in caution
    assert "experiment=simclr_tiny_imagenet dataset.split=classes" in caution
    assert not any("random" in caution for caution in wired(words, source).cautions)


def test_a_masked_students_teacher_begins_from_the_weights_and_both_stay_when_frozen(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "small_vits")
    words = [*RUN, *small_vits["data2vec"]]
    other = wired([*words, "seed=5"]).algorithm.network.encoder
    torch.save(other.state_dict(), tmp_path / "other.pt")
    run = wired(words, tmp_path / "other.pt", "init.freeze=true")
    before = copied(run.algorithm)
    assert len(encoders(run.algorithm)) == 2
    run.one_step()
    for encoder in encoders(run.algorithm):
        assert_same(encoder.state_dict(), other.state_dict())
    after = run.algorithm.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
