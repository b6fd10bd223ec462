"""``ssl-eval``: the run's own figures, any dataset, several encoders on the same questions, suites, and mistakes."""

import json
import shutil
from pathlib import Path

import children
import pytest
import timm
import torch
import yaml
from run_folders import EPISODES, MAML, VIEWS, settled
from safetensors.torch import save_file

import ssl_runner
from ssl_runner import train
from ssl_runner.errors import ConfigError
from ssl_runner.runs import evaluations

FEW = ["trainer.max_steps=2", "eval.few_shot.episodes=10", "baselines=[]"]
TINY = [*(word for word in VIEWS if not word.startswith(("eval", "baselines", "trainer.max_steps"))), *FEW]
PROBED = [
    *TINY,
    "eval=[knn,linear_probe,few_shot,fine_tuning_10pct]",
    "eval.knn.k=20",
    "eval.fine_tuning_10pct.epochs=1",
]
KNN = ["dataset=digits", "eval=[knn]", "eval.knn.k=20"]


def trained(words, folder):
    train.run(settled(words), folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(PROBED, tmp_path_factory.mktemp("evaluated") / "run")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return trained([*PROBED, "seed=1"], tmp_path_factory.mktemp("evaluated") / "seed=1")


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def typed(tmp_path):
    """Runs ``ssl-eval WORDS``."""
    return lambda *words: children.evaluation(tmp_path / "logs", [str(word) for word in words])


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_run_evaluated_on_its_own_data_has_the_figures_of_its_result_to_the_last_bit(run, typed):
    done = typed(run, "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["rows"]
    (found,) = row["evaluations"]
    before = result(run)
    assert found["metrics"] == before["metrics"]
    assert {"knn/top1", "linear_probe/top1", "few_shot/5w1s/top1", "fine_tuning_10pct/top1"} <= found["metrics"].keys()
    for key in ("protocols", "dataset", "versions"):
        assert found[key] == before[key]
    assert found["own_dataset"] and not found["read"]
    assert Path(found["path"]).parent == run / "evaluations"


@pytest.mark.parametrize(
    "words", [MAML, [*EPISODES, "algorithm=protonet", "model/head=identity"]], ids=["maml", "protonet"]
)
def test_algorithms_that_adapt_are_scored_as_in_training(words, tmp_path):
    run = trained([*words, *FEW], tmp_path / "run")
    found = ssl_runner.evaluate(run).only
    assert found.metrics == result(run)["metrics"]
    assert found.protocols == result(run)["protocols"]


def test_the_same_evaluation_is_read_and_again_computes_it_once_more(run):
    first = ssl_runner.evaluate(run, "eval=[knn]").only
    written = first.path.stat().st_mtime_ns
    second = ssl_runner.evaluate(run, "eval=[knn]").only
    assert second.again and second.content == first.content
    assert first.path.stat().st_mtime_ns == written
    third = ssl_runner.evaluate(run, "eval=[knn]", again=True).only
    assert not third.again and third.metrics == first.metrics
    assert first.path.stat().st_mtime_ns != written


def test_other_weights_or_a_damaged_file_are_evaluated_anew(run, other, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    first = ssl_runner.evaluate(copy, "eval=[knn]").only
    first.path.write_text("{")
    assert not ssl_runner.evaluate(copy, "eval=[knn]").only.again
    for name in ("checkpoints", "encoder.safetensors", "config.yaml", "result.json"):
        there = copy / name
        if there.is_dir():
            shutil.rmtree(there)
            shutil.copytree(other / name, there)
        else:
            shutil.copy(other / name, there)
    second = ssl_runner.evaluate(copy, "eval=[knn]").only
    assert second.path == first.path and not second.again
    assert second.metrics == ssl_runner.evaluate(other, "eval=[knn]").metrics


def test_evaluators_of_the_run_keep_its_values_and_others_have_those_of_conf(run):
    found = ssl_runner.evaluate(run, "eval=[knn,linear_probe_10pct]").only
    assert found.content["config"]["eval"]["knn"]["k"] == 20
    assert found.content["config"]["dataset"] == settled(PROBED)["dataset"]
    assert found.metrics["knn/top1"] == result(run)["metrics"]["knn/top1"]
    assert "linear_probe_10pct/top1" in found.metrics
    assert ssl_runner.evaluate(run, ["eval=[knn]", "eval.knn.k=7"]).only.protocols["knn"]["k"] == 7
    assert ssl_runner.evaluate(run, ["eval.few_shot.settings=[2w1s]"]).only.protocols["few_shot"][
        "settings"
    ].keys() == {"2w1s"}


def test_few_shot_classifiers_are_asked_of_runs_files_and_pixels_even_of_runs_that_could_not_choose_any(run, tmp_path):
    words = ["eval=[few_shot]", "eval.few_shot.classifier=[own,centroid,tim_adm]", "eval.few_shot.episodes=10"]
    words += ["dataset=digits", "dataset.size=16", "eval.few_shot.classifiers.tim_adm.steps=5"]
    found = ssl_runner.evaluate([run, run / "encoder.safetensors", "raw_pixels"], words)
    for one in found.rows[0].evaluations:
        assert one.metrics["few_shot/5w1s/centroid/top1"] == pytest.approx(one.metrics["few_shot/5w1s/top1"], abs=0.02)
        assert "few_shot/5w1s/tim_adm_transductive/minus_own/difference" in one.metrics
        assert "5 steps" in one.protocols["few_shot"]["classifiers"]["tim_adm_transductive"]
    old = shutil.copytree(run, tmp_path / "old")
    config = yaml.safe_load((old / "config.yaml").read_text())
    for key in ("classifier", "classifiers"):
        del config["eval"]["few_shot"][key]
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    assert ssl_runner.evaluate(old, words).metrics == found.rows[0].evaluations[0].metrics


def test_another_dataset_is_resized_and_counts_as_unseen(run):
    found = ssl_runner.evaluate(run, "dataset=translated_digits eval=[knn,few_shot]").only
    assert found.content["dataset"]["name"] == "translated_digits"
    assert found.content["preprocessing"] == {
        "images": [1, 20, 20],
        "encoder": [1, 16, 16],
        "resized": "shorter side, bicubic, center cropped",
    }
    assert found.protocols["knn"]["classes"] == found.protocols["few_shot"]["classes"] == "unseen"
    assert not found.content["own_dataset"]
    # the same data with another split was seen all the same
    again = ssl_runner.evaluate(run, "dataset.split_seed=1 eval=[knn]").only
    assert not again.content["own_dataset"] and again.protocols["knn"]["classes"] == "seen"


def test_several_encoders_are_asked_the_same_and_their_differences_are_those_of_their_answers(run, other, outputs):
    weights = outputs / "timm.safetensors"
    outputs.mkdir()
    with torch.random.fork_rng():
        save_file(timm.create_model("test_resnet").state_dict(), weights)
    encoders = [run, other, "raw_pixels", other / "encoder.safetensors", f"timm:test_resnet@{weights}"]
    found = ssl_runner.evaluate(encoders, [*KNN, "dataset.size=12", "eval=[knn,few_shot]", "eval.few_shot.episodes=10"])
    (row,) = found.rows
    assert len({one.path.name for one in row.evaluations}) == 1
    tasks = [one.protocols["few_shot"]["settings"]["5w1s"]["tasks"] for one in row.evaluations]
    assert len(set(tasks)) == 1
    assert [one.answers["knn"].shape for one in row.evaluations] == [(449,)] * 5
    assert [one.content["encoder"]["kind"] for one in row.evaluations] == ["run", "run", "raw_pixels", "file", "timm"]
    assert row.evaluations[4].protocols["knn"]["classes"] == "unknown"
    # a contrastive run classifies by its encoder alone, so its file is the same encoder
    assert row.evaluations[1].metrics == row.evaluations[3].metrics
    same = next(one for one in row.differences if (one.key, one.first, one.second) == ("few_shot/5w1s", 1, 3))
    assert same.p == 1 and same.mean == 0 and not same.told_apart
    assert len(found.differences) == 20
    for one in found.differences:
        scores = [row.evaluations[number].metrics[f"{one.key}/top1"] for number in (one.first, one.second)]
        assert one.mean == pytest.approx(scores[0] - scores[1], abs=1e-6)
    homes = [one.path.parent for one in row.evaluations]
    assert homes[:2] == [run / "evaluations", other / "evaluations"]
    assert homes[2] == outputs / "evaluations" / "raw_pixels"
    assert homes[4].name.startswith("timm_test_resnet_") and homes[4].parent == outputs / "evaluations"
    assert [evaluations.read(one.path).content for one in row.evaluations] == [one.content for one in row.evaluations]
    again = ssl_runner.evaluate(encoders, [*KNN, "dataset.size=12", "eval=[knn,few_shot]", "eval.few_shot.episodes=10"])
    assert all(one.again for one in again.rows[0].evaluations)
    assert again.differences == found.differences


def test_the_tables_name_what_cannot_be_told_apart(run, other, typed):
    done = typed(run, other, run / "encoder.safetensors", *KNN, "dataset.size=16")
    assert done.code == 0, done.err
    assert "accuracy on digits/test, %" in done.out
    assert "A run" in done.out and "B seed=1" in done.out and "A - C" in done.out
    assert "≈" in next(line for line in done.out.splitlines() if "A - C" in line)
    assert "≈ cannot be told apart from the best (p >= .05" in done.out
    assert done.out.count("evaluations/") == 3


def test_a_suite_has_a_row_for_each_dataset_at_hand_and_names_the_others(run, typed, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_DATA", str(tmp_path / "nothing"))
    suite = {
        "words": ["eval=[knn]", "eval.knn.k=10"],
        "rows": {
            "plain": ["dataset=digits"],
            "moved": ["dataset=translated_digits"],
            "cloth": ["dataset=fashion_mnist"],
            "own": ["dataset=image_folder", "dataset.root=${oc.env:SSL_RUNNER_DATA,data}/own"],
        },
    }
    (tmp_path / "conf" / "suite").mkdir(parents=True)
    (tmp_path / "conf" / "suite" / "mine.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    done = typed(run, "raw_pixels", "suite=mine", "--config-dir", tmp_path / "conf", "eval.knn.k=9", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [row["name"] for row in found["rows"]] == ["plain", "moved"]
    assert [row["evaluations"][0]["protocols"]["knn"]["k"] for row in found["rows"]] == [9, 9]
    assert "not on this machine" in found["left_out"]["cloth"]
    assert str(tmp_path / "nothing" / "own") in found["left_out"]["own"]
    assert not (tmp_path / "nothing").exists()
    shown = typed(run, "raw_pixels", "suite=mine", "--config-dir", tmp_path / "conf", "eval.knn.k=9")
    assert "left out: cloth: not on this machine (fashion_mnist)" in shown.out
    assert "plain" in shown.out and "moved" in shown.out


def test_the_transfer_suite_knows_every_dataset_that_it_names(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_DATA", str(tmp_path / "nothing"))
    with pytest.warns(UserWarning, match="is left out"):
        found = ssl_runner.evaluate(run, "suite=transfer eval=[knn] eval.knn.k=5")
    assert [row.name for row in found.rows] == ["digits"]
    named = yaml.safe_load((Path(__file__).parents[2] / "conf" / "suite" / "transfer.yaml").read_text())["rows"]
    assert found.left_out.keys() | {"digits"} == named.keys()
    absent = [why for name, why in found.left_out.items() if name != "tiny_imagenet"]
    assert all(why.startswith("not on this machine") for why in absent), found.left_out


MISTAKES = [
    ([], "no encoder is given"),
    (["nowhere"], "nowhere does not exist; give a run folder"),
    (["."], ". has no config.yaml, so it is not a run folder"),
    (["{run}/checkpoints"], "is inside a run; give the run's folder"),
    (["tim:resnet18"], "tim:resnet18 does not exist; did you mean 'timm'?"),
    (["timm:resnt18", *KNN], "has no such model; did you mean 'resnet18'?"),
    (["timm:resnet18@nowhere", *KNN], "nowhere does not exist; give a file of weights"),
    (["{run}/metrics.jsonl"], "is inside a run"),
    (["raw_pixels"], "raw_pixels has no dataset of its own; give dataset=NAME, or suite=transfer"),
    (["{run}", "eval=[kn]"], "no option 'kn' in group eval; did you mean 'knn'?"),
    (["{run}", "dataset=mnst"], "no option 'mnst' in group dataset; did you mean 'mnist'?"),
    (["{run}", "eval.knn.kk=3"], "did you mean 'eval.knn.k'?"),
    (["{run}", "eval.knn.k=three"], "eval.knn.k"),
    (["{run}", "loss.temperature=1"], "an evaluation has no such key"),
    (["{run}", "experiment=simclr_mnist"], "a run has its own dataset and evaluators"),
    (["{run}", "eval=[]"], "nothing is asked"),
    (["{run}", "trainer.device=cuda"], "device='cuda' is not available here"),
    (["{run}", "eval.few_shot.settings=[20w1s]"], "set eval.few_shot.settings=[10w1s]"),
    (["{run}", "eval.knn.k=5000"], "eval.knn.k=5000, but there are only"),
    (["{run}", "suite=transfr"], "there is no such suite; did you mean 'transfer'?"),
    (["{run}", "suite=transfer", "dataset=mnist"], "a suite has datasets of its own"),
    (["{run}", "--agin"], "there is no such flag; did you mean '--again'?"),
    (["{run}", "dataset=image_folder", "dataset.root={unlabelled}", "eval=[knn]"], "has no labels"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_a_mistake_has_one_message_and_writes_nothing(words, message, run, typed, tmp_path, outputs):
    from PIL import Image

    (tmp_path / "unlabelled").mkdir()
    for number in range(30):
        Image.new("L", (16, 16), number).save(tmp_path / "unlabelled" / f"{number}.png")
    before = sorted(run.rglob("*"))
    places = {"run": run, "unlabelled": tmp_path / "unlabelled"}
    done = typed(*(word.format(**places) if "{" in word else word for word in words))
    assert done.code == 2, done.out + done.err
    assert message in done.err
    assert "Traceback" not in done.err and done.out == ""
    assert len(done.err.splitlines()) <= 2
    assert sorted(run.rglob("*")) == before and not outputs.exists()


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_a_run_that_did_not_finish_is_refused(status, run, tmp_path, typed):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "result.json").write_text(json.dumps(result(run) | {"status": status}))
    done = typed(copy)
    assert done.code == 2
    shown = "killed" if status == "running" else status  # no process holds its lock
    assert f"has the status '{shown}', expected 'finished'" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("name", ["encoder.safetensors", "result.json", "checkpoints/last.pt"])
def test_a_run_that_lost_a_file_is_refused(name, run, tmp_path, typed):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / name).unlink()
    done = typed(copy)
    assert done.code == 2, done.err
    assert str(copy) in done.err and "Traceback" not in done.err


def test_runs_with_other_evaluations_of_their_own_must_be_told_what_is_asked(run, tmp_path):
    few = [word for word in TINY if not word.startswith("eval")]
    fewer = trained([*few, "eval=[knn]", "eval.knn.k=20"], tmp_path / "fewer")
    with pytest.raises(ConfigError, match=r"have different evaluations of their own .* give for both: eval=\[...\]"):
        ssl_runner.evaluate([run, fewer])
    assert len(ssl_runner.evaluate([run, fewer], "eval=[knn]")) == 2
    nearer = trained([*few, "eval=[knn]", "eval.knn.k=5"], tmp_path / "nearer")
    with pytest.raises(ConfigError, match=r"eval.knn.k: 20 -> 5\); give for both: eval.knn.k=..."):
        ssl_runner.evaluate([fewer, nearer])
    assert len(ssl_runner.evaluate([fewer, nearer], "eval.knn.k=5")) == 2


def test_an_evaluator_with_a_dataset_of_its_own_keeps_it(run, tmp_path):
    found = ssl_runner.evaluate(run, ["dataset=translated_digits", "eval=[few_shot]"]).only
    target = settled(["dataset=translated_digits", "dataset.size=16"])["dataset"]
    words = [word for word in TINY if not word.startswith("eval")]
    config = settled([*words, "eval=[few_shot]", "eval.few_shot.episodes=10"])
    config["eval"]["few_shot"]["dataset"] = target
    folder = tmp_path / "own"
    train.run(config, folder)
    own = ssl_runner.evaluate(folder).only
    assert own.metrics == result(folder)["metrics"]
    assert set(own.metrics) == {f"translated_digits/{key}" for key in found.metrics}


def test_help_and_mistakes_need_no_torch(run):
    import subprocess
    import sys

    lines = [["--help"], ["--version"], ["--help", "eval"], ["nowhere"], [str(run), "loss.temperature=1"]]
    code = "import sys; from ssl_runner.commands import evaluate\n"
    code += f"for words in {lines!r}:\n    sys.argv = ['ssl-eval', *words]\n"
    code += "    try: evaluate.main()\n    except SystemExit: pass\n    print('torch imported', 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith("torch imported")]
    assert found == ["torch imported False"] * len(lines), done.stdout + done.stderr


def test_python_refuses_what_is_no_override(run):
    with pytest.raises(ConfigError, match="not an override"):
        ssl_runner.evaluate(run, "knn")
    with pytest.raises(ValueError, match="there are 2 evaluations"):
        _ = ssl_runner.evaluate([run, "raw_pixels"], "eval=[knn]").metrics


def test_a_run_that_asked_nothing_can_be_asked(tmp_path):
    words = [word for word in TINY if not word.startswith("eval")]
    run = trained([*words, "eval=[]"], tmp_path / "run")
    assert "knn/top1" in ssl_runner.evaluate(run, ["eval=[knn]", "eval.knn.k=5"]).metrics
