"""What the scripts that write tables share."""

import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
RESULT = {
    "metrics": {"few_shot/5w1s/top1": 0.98, "few_shot/5w1s/ci95": 0.0013, "knn/top1": 0.5},
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "training_seconds": 90,
}


@pytest.fixture
def harness(results_script):
    return results_script("harness")


def test_a_finished_run_becomes_a_row_of_the_page(harness, tmp_path):
    kept = {name: tmp_path / "kept" / f"{name}.json" for name in ("absent", "maml")}
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    harness.keep(tmp_path, ["experiment=maml_omniglot", "seed=1"], kept["maml"], {"tasks_per_step": 4})
    found = harness.read_those_there(kept)
    assert found == {
        "maml": RESULT | {"tasks_per_step": 4, "command": "ssl-train experiment=maml_omniglot seed=1"},
    }

    page = tmp_path / "README.md"
    page.write_text("before\n<!-- meta -->\nold\n<!-- end of meta -->\nafter\n")
    rows = [["*raw pixels*", None, ""]]
    for name, result in found.items():
        cells = [harness.accuracy(result["metrics"], key) for key in ("few_shot/5w1s", "knn", "linear_probe")]
        rows.append([name, *cells, harness.minutes(result), harness.commit(result)])
    columns = ["method", "5w1s", "kNN", "linear", "minutes", "commit"]
    harness.write_between(page, "meta", lambda: harness.markdown(columns, rows))
    assert page.read_text().splitlines() == [
        "before",
        "<!-- meta -->",
        "| method | 5w1s | kNN | linear | minutes | commit |",
        "| --- | --- | --- | --- | --- | --- |",
        "| *raw pixels* | |  | | | |",
        "| maml | 98.00% ± 0.13% | 50.00% | - | 1.5 | 012345678 and changes |",
        "<!-- end of meta -->",
        "after",
    ]


def test_the_page_is_written_after_every_row_and_without_any(harness):
    done = []
    harness.make(["a", "b"], done.append, lambda: done.append("page"))
    assert done[:4] == ["a", "page", "b", "page"]
    done.clear()
    harness.make([], done.append, lambda: done.append("page"))
    assert done == ["page"]


def test_a_row_that_is_kept_is_named_with_what_runs_it_anew(harness, tmp_path, capsys):
    path = tmp_path / "maml.json"
    assert not harness.is_kept("maml", path)
    assert capsys.readouterr().out == ""
    path.touch()
    assert harness.is_kept("maml", path)
    assert capsys.readouterr().out == f"maml: {path} is there; --again runs it anew\n"


def test_a_trial_takes_two_steps_and_leaves_nothing(harness, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []

    def run(words, folder, *shared):
        ran.append((words, shared))
        folder.mkdir(parents=True)

    monkeypatch.setattr(harness, "run", run)
    harness.try_out(["seed=1"], "meta_maml", 1, 2)
    [(words, shared)] = ran
    assert words[0] == "seed=1" and {"trainer.max_steps=2", "eval=[]"} <= set(words) and shared == (1, 2)
    assert not list((tmp_path / "outputs" / "trial").iterdir())


def test_a_run_that_fails_ends_the_script_with_its_code(harness, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "python", lambda processes: ["sh", "-c", "exit 3"])
    with pytest.raises(SystemExit) as ended:
        harness.run(["seed=1"], tmp_path)
    assert ended.value.code == 3


def test_a_decay_by_steps_spans_the_steps_as_the_recipes_does(harness, monkeypatch):
    recipe = {"trainer": {"max_steps": 1000}, "scheduler": {"every": 100}}
    monkeypatch.setattr(harness, "composed", lambda words: recipe if words == ["experiment=a"] else {})
    assert harness.spanning(["experiment=a", "seed=1"], 250) == ["trainer.max_steps=250", "scheduler.every=25"]
    recipe["scheduler"] = {}
    assert harness.spanning(["experiment=a"], 250) == ["trainer.max_steps=250"]


@pytest.mark.parametrize(
    ("script", "mark", "given"),
    [
        ("reproduce", "table", lambda script: ()),
        ("meta_table", "meta omniglot", lambda script: (script.Asked(RESULTS, None, None, None, 1, None, None),)),
        *(
            ("verdict_table", mark, lambda script, of=of: (script.Asked(RESULTS, *script.SOURCES[of], None, None, ()),))
            for mark, of in (("verdict", "two"), ("verdict_four_sources", "four"))
        ),
    ],
)
def test_the_page_has_what_the_kept_results_give(results_script, script, mark, given):
    script = results_script(script)
    _, _, rest = (RESULTS / "README.md").read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    written, end, _ = rest.partition(f"\n<!-- end of {mark} -->")
    assert end and script.table(*given(script)) == written
