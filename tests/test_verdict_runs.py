"""Runs that are evaluated on an unseen dataset, end to end."""

import copy
import json

import pytest
import torch
from run_folders import points
from safetensors import safe_open

from ssl_runner import train
from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.reproduce import compare
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.hashing import config_difference
from ssl_runner.data.sources import mnist
from ssl_runner.errors import ConfigError, DataError
from ssl_runner.runtime.no_download import refuse_download
from ssl_runner.wiring import wire

JUDGED = [
    "eval.verdict.dataset._target_=ssl_runner.data.sources.mnist.fashion_mnist",
    "eval.verdict.episodes=6",
    "eval.verdict.n_query=2",
    "eval.verdict.supervised_steps=2",
    "eval.verdict.scratch_episodes=2",
    "eval.verdict.scratch_steps=2",
]
SMALL = [
    "model.encoder.width=4",
    "batching.tasks_per_batch=2",
    "batching.n_query=2",
    "trainer.max_steps=2",
    "trainer.progress=false",
    "trainer.threads=1",
    "baselines=[untrained,raw_pixels]",
]
FEW_SHOT = ["eval=[few_shot,verdict]", "eval.few_shot.episodes=4", "eval.few_shot.n_query=2"]


def settled(*overrides: str) -> dict:
    return validate.checked_config(Composer(conf_folder()), list(overrides))[0]


def line(*overrides: str) -> list[str]:
    return ["experiment=protonet_digits", *SMALL, *FEW_SHOT, *JUDGED, *overrides]


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_root):
    folder = tmp_path_factory.mktemp("run") / "judged"
    return folder, train.run(settled(*line()), folder)


def test_result_json_holds_scores_differences_times_and_the_verdict_in_words(run):
    folder, result = run
    assert json.loads((folder / "result.json").read_text()) == result
    for setting in ("5w1s", "5w5s"):
        for key in ("few_shot/{}/top1", "few_shot/{}/ci95", "paired/{}/difference", "paired/{}/ci95"):
            assert f"fashion_mnist/{key.format(setting)}" in result["metrics"]
        assert result["times"][f"fashion_mnist/adaptation_ms/{setting}"] > 0
    assert not any(key.startswith("time/") or "adaptation_ms" in key for key in result["metrics"])
    assert [said.partition(":")[0] for said in result["verdict"]] == ["fashion_mnist 5w1s", "fashion_mnist 5w5s"]
    assert all("adaptation" in said and "(paired, " in said for said in result["verdict"])
    assert result["protocols"]["verdict"]["trained_on"] == "digits/train"
    with safe_open(folder / "tasks_fashion_mnist.safetensors", "pt") as tasks:
        assert tasks.get_tensor("5w5s/support").shape == (6, 25)
    assert (folder / "tasks.safetensors").exists(), "of the other evaluator"


def test_only_the_trained_algorithm_gets_a_verdict(run):
    metrics = run[1]["metrics"]
    assert "untrained/few_shot/5w1s/top1" in metrics and "raw_pixels/few_shot/5w1s/top1" in metrics
    judged = {key.partition("/")[0] for key in metrics if "fashion_mnist" in key}
    assert judged == {"fashion_mnist"}


def test_tensorboard_has_the_metrics_and_keeps_times_apart(run):
    tags = points(run[0]).keys()  # without time/
    assert "eval/fashion_mnist/paired/5w1s/difference" in tags
    assert not any("adaptation_ms" in tag for tag in tags)


def test_the_console_ends_with_the_verdict(run, capsys, tmp_path):
    result = train.run(settled(*line()), tmp_path / "again")
    printed = capsys.readouterr().out
    assert "fashion_mnist/test (unseen)" in printed
    assert all(said in printed for said in result["verdict"])
    assert result["metrics"] == run[1]["metrics"], "the same command gives the same figures"
    text, same = compare(run[0], run[1], result)
    assert same and "identical to the last bit" in text and "adaptation_ms" not in text


def test_no_verdict_affects_a_run(tmp_path, data_root):
    selecting = ["dataset.class_counts=[3,2,5]", "batching.n_way=2", "eval.few_shot.settings=[2w1s]"]
    selecting += ["trainer.evaluate_every=1"]
    figure = "fashion_mnist/few_shot/5w1s/top1"
    with pytest.raises(ConfigError, match=f"trainer.select={figure}: evaluation has no such metric"):
        wire.prepare(settled(*line(*selecting, f"trainer.select={figure}")))
    train.run(settled(*line(*selecting, "trainer.select=few_shot/2w1s/top1")), tmp_path / "run")
    rows = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/validation/few_shot/2w1s/top1" in row for row in rows)
    assert not any("fashion_mnist" in tag for row in rows for tag in row)


@pytest.fixture
def no_fashion(monkeypatch, tmp_path):
    """A folder without the dataset, and no network access."""

    def download(name, root, wanted, fetch):
        refuse_download(name)
        raise DataError(f"{name} is missing")

    monkeypatch.setattr(mnist, "download", download)
    return f"eval.verdict.dataset.root={tmp_path}"


def test_a_missing_dataset_is_reported_before_anything_is_written(no_fashion, tmp_path):
    with pytest.raises(ConfigError, match="fashion_mnist is missing"):
        train.run(settled(*line(no_fashion)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parts_that_do_not_fit_are_reported_without_the_images(no_fashion):
    with pytest.raises(
        ConfigError, match=r"1 x 14 x 14, but the encoder takes 1 x 28 x 28; set eval\.verdict\.dataset\.size=28"
    ):
        wire.prepare(settled(*line(no_fashion, "eval.verdict.dataset.size=14")))
    source = ["dataset=fashion_mnist", "dataset.split=classes", no_fashion.removeprefix("eval.verdict.")]
    with pytest.raises(ConfigError, match="this run trains on fashion_mnist, so the images are not unseen"):
        wire.prepare(settled(*line(no_fashion, *source)))
    with pytest.raises(ConfigError, match=r"n_way=11, but split 'test' of fashion_mnist has 10 classes"):
        wire.prepare(settled(*line(no_fashion, "eval.verdict.settings=[11w1s]")))


def test_keys_of_the_dataset_are_checked_and_its_folder_is_not_hashed():
    with pytest.raises(ConfigError, match=r"eval\.verdict\.dataset\.siez: .*did you mean 'size'"):
        settled(*line("+eval.verdict.dataset.siez=28"))
    config = settled(*line())
    other = copy.deepcopy(config)
    other["eval"]["verdict"]["dataset"]["root"] = "/elsewhere"
    assert config_difference(config, other) == []
    other["eval"]["verdict"]["dataset"]["size"] = 14
    assert config_difference(config, other) == ["eval.verdict.dataset.size: 28 -> 14"]


def test_a_meta_learner_that_adapts_is_scored_in_both_ways_and_says_so(tmp_path, data_root):
    words = ["algorithm=maml", "model/head=linear", "algorithm.inner_steps=1", "algorithm.eval_inner_steps=1"]
    result = train.run(settled(*line(*words, "baselines=[]")), tmp_path / "run")
    for way in ("", "/inductive", "/transductive"):
        assert f"fashion_mnist/few_shot/5w1s{way}/top1" in result["metrics"]
    assert all("transductive" in said for said in result["verdict"])
    assert torch.isfinite(torch.tensor(list(result["metrics"].values()))).all()
