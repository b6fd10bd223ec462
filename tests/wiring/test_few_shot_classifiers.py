"""Every few-shot classifier with every kind of encoder: checked before training, scored after it, and selected by."""

import json

import pytest
import small_vits
from run_folders import MAML, PROTONET, VIEWS, settled

from ssl_runner import train
from ssl_runner.config.building import build
from ssl_runner.errors import ConfigError
from ssl_runner.wiring import wire

ALL = ["own", "centroid", "simple_shot", "logistic", "ridge", "fine_tuning", "tim", "tim_adm", "pt_map"]
WAYS = [f"{name}_transductive" if name in ("tim", "tim_adm", "pt_map") else name for name in ALL[1:]]
ASKED = ["eval=[few_shot]", f"eval.few_shot.classifier=[{','.join(ALL)}]", "eval.few_shot.episodes=4"]
ASKED += [f"eval.few_shot.classifiers.{name}.steps=3" for name in ("fine_tuning", "tim", "tim_adm", "pt_map")]
ASKED += ["eval.few_shot.settings=[3w2s]", "eval.few_shot.n_query=3"]
LAST = "eval.few_shot.classifiers.fine_tuning.layers=1"
METHODS = {
    "contrastive": VIEWS,
    "meta-learned by gradients": [*MAML, LAST],
    "meta-learned by comparison": PROTONET,
    "supervised": [
        *(word for word in VIEWS if not word.startswith("model.head")),
        *("algorithm=supervised", "model/head=linear", "loss=cross_entropy", "batching=labelled"),
    ],
    "masked": [*small_vits.RUN, *small_vits.METHODS["mae"], "model.encoder.patch_size=4", LAST],
}


def words(method: str) -> list[str]:
    own = [word for word in METHODS[method] if not word.startswith(("eval=", "eval.few_shot.episodes", "baselines"))]
    return [*own, *ASKED, "baselines=[]", "trainer.diagnostics_every=null"]


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "small_vits")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_scores_them_all_on_the_same_episodes(method, tmp_path):
    train.run(settled([*words(method), "trainer.max_steps=2"]), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    found = {key: value for key, value in result["metrics"].items() if key.startswith("few_shot/3w2s/")}
    for way in WAYS:
        assert 0 <= found[f"few_shot/3w2s/{way}/top1"] <= 1
        difference = found[f"few_shot/3w2s/{way}/top1"] - found["few_shot/3w2s/top1"]
        assert found[f"few_shot/3w2s/{way}/minus_own/difference"] == pytest.approx(difference)
    assert list(result["protocols"]["few_shot"]["classifiers"]) == ["own", *WAYS]


def test_a_model_may_be_selected_by_one_on_validation_images(tmp_path):
    select = ["trainer.evaluate_every=1", "trainer.select=few_shot/3w2s/simple_shot/top1", "trainer.max_steps=2"]
    train.run(settled([*words("contrastive"), *select]), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/validation/few_shot/3w2s/simple_shot/top1" in line for line in lines)


def test_without_its_run_the_in_context_classifier_is_refused_before_training():
    config = settled([*words("contrastive"), "eval.few_shot.classifier=in_context"])
    with pytest.raises(ConfigError, match=r"eval\.few_shot\.classifiers\.in_context\.run=null, but it needs a trained"):
        wire.wire(config)


def test_a_value_of_a_classifier_that_is_not_chosen_is_checked_too():
    config = settled([*words("contrastive"), "eval.few_shot.classifiers.pt_map.rate=7", "eval.few_shot.classifier=tim"])
    with pytest.raises(ConfigError, match=r"eval\.few_shot\.classifiers\.pt_map: rate=7; give a share"):
        build(config["eval"]["few_shot"], "eval.few_shot")
