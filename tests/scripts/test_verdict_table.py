"""The table of verdicts over seeds."""

import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def script(results_script):
    return results_script("verdict_table")


def result(difference: float, half: float, best: str = "from_scratch") -> dict:
    """What a run leaves that the table reads."""
    metrics = {"few_shot/5w1s/top1": 0.3 + difference, "few_shot/5w1s/ci95": 0.005}
    for name in ("chance", "from_scratch"):
        pair = {"difference": difference if name == best else 0.2, "ci95": half}
        metrics |= {f"paired/5w1s/{name}/{key}": value for key, value in pair.items()}
        metrics |= {f"verdict/5w1s/{name}/top1": 0.3, f"verdict/5w1s/{name}/ci95": 0.02}
    metrics |= {"paired/5w1s/difference": difference, "paired/5w1s/ci95": half}
    baselines = {"chance": {"episodes": 1000}, "from_scratch": {"episodes": 100}}
    protocol = {"name": "cifar10", "episodes": 1000, "settings": {"5w1s": {}}, "baselines": baselines}
    times = {"cifar10/adaptation_ms/5w1s": 12.4, "cifar10/adaptation_ms/5w1s/from_scratch": 1234.0}
    run = {"metrics": {f"cifar10/{key}": value for key, value in metrics.items()}, "times": times}
    git = {"commit": "0123456789abcdef", "dirty": False}
    return run | {"protocols": {"few_shot": {}, "verdict": protocol}, "git": git, "training_seconds": 90, "steps": 1200}


def keep(folder: Path, **results: dict) -> None:
    (folder / "verdict").mkdir()
    for name, content in results.items():
        (folder / "verdict" / f"{name}.json").write_text(json.dumps(content))


def asked(script, folder: Path):
    return script.Asked(folder, *script.SOURCES["two"], None, None, ())


def test_seeds_are_pooled_by_hand(script, tmp_path):
    keep(tmp_path, snail_0=result(0.02, 0.01), snail_1=result(0.03, 0.012), snail_2=result(0.04, 0.014))
    lines = script.table(asked(script, tmp_path)).splitlines()
    cells = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    # mean .03, deviation .01, Student's t with 2 degrees of freedom: 4.3027 * .01 / sqrt(3) = .02484
    assert cells == [
        "`snail`, 3 seeds",
        "5w1s",
        "33.00 ± 0.50",
        "training from scratch, 30.00 (100 episodes)",
        "+3.00 ± 1.20",
        "+3.00 ± 2.48",
        "helped",
        "12 (1,234)",
        "1.5",
        "1,200",
        "012345678",
    ]
    assert lines[2:4] == [
        f"| *chance* | 5w1s | 30.00 ± 2.00 |{'  |' * 8}",
        f"| *training from scratch*, as `snail` (100 episodes) | 5w1s | 30.00 ± 2.00 |{'  |' * 8}",
    ]


def test_the_word_goes_by_the_wider_interval(script, tmp_path):
    keep(tmp_path, snail_0=result(0.02, 0.01), snail_1=result(0.04, 0.01), maml_0=result(-0.02, 0.01))
    of = {line.split("`")[1]: line.split("|")[6:8] for line in script.table(asked(script, tmp_path)).splitlines()[4:]}
    assert [cell.strip() for cell in of["snail"]] == ["+3.00 ± 12.71", "did not help"]
    assert [cell.strip() for cell in of["maml"]] == ["-", "hurt"]


def test_what_has_a_result_is_not_run_again_and_the_page_keeps_the_rest(script, tmp_path, monkeypatch, capsys):
    keep(tmp_path, snail_0=result(0.02, 0.01))
    (tmp_path / "README.md").write_text("before\n<!-- verdict -->\nold\n<!-- end of verdict -->\nafter\n")
    made = []

    def reproduce(name, seed, asked):
        made.append((name, seed))
        (tmp_path / "verdict" / f"{name}_{seed}.json").write_text(json.dumps(result(0.03, 0.01)))

    monkeypatch.setattr(script, "reproduce", reproduce)
    words = ["snail", "maml", "--sources", "two", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["verdict_table.py", *words])
    script.main()
    assert made == [("snail", 1), ("snail", 2), ("maml", 0), ("maml", 1), ("maml", 2)]
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n<!-- verdict -->\n| method |") and text.endswith("<!-- end of verdict -->\nafter\n")
    assert "`snail`, 3 seeds" in text and "`maml`, 3 seeds" in text
    assert "snail_0.json is there" in capsys.readouterr().out


def test_seeds_after_the_first_take_its_steps(script, tmp_path, monkeypatch):
    keep(tmp_path, snail_0=result(0.02, 0.01))
    ran = []
    monkeypatch.setattr(script, "spanning", lambda words, steps: [f"trainer.max_steps={steps}"])
    monkeypatch.setattr(script, "run", lambda words, folder, threads: ran.append(words))
    monkeypatch.setattr(script, "keep", lambda *given: None)
    monkeypatch.chdir(tmp_path)
    script.reproduce("snail", 1, asked(script, tmp_path))
    assert ran[0][0] == "experiment=snail_mnist_fashion_to_cifar10"
    assert {"seed=1", "trainer.max_steps=1200", "baselines=[]"} <= set(ran[0])


def test_one_command_asks_for_both_tables_with_all_methods_and_three_seeds(script, tmp_path, monkeypatch):
    made = []

    def reproduce(name, seed, asked):
        made.append((asked.experiment.format(name), seed, asked.minutes))
        path = asked.kept(name, seed)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result(0.03, 0.01)))

    monkeypatch.setattr(script, "reproduce", reproduce)
    monkeypatch.setattr(sys, "argv", ["verdict_table.py", "--results", str(tmp_path)])
    script.main()
    methods = ("snail", "context", "mann", "maml", "protonet")
    tables = (("mnist_fashion", 10), ("four_sources", 20))
    assert made == [
        (f"{method}_{sources}_to_cifar10", seed, minutes)
        for sources, minutes in tables
        for method in methods
        for seed in range(3)
    ]
    text = (tmp_path / "README.md").read_text()
    for name in ("verdict", "verdict_four_sources"):
        table = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0]
        assert all(f"`{method}`, 3 seeds" in table for method in methods)


def test_another_experiment_has_one_table(script, tmp_path, monkeypatch):
    words = ["protonet", "--experiment", "{}_digits", "--minutes", "0.1", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["verdict_table.py", *words])
    (one,) = script.asked_for(script.options().parse_args())
    assert (one.experiment, one.minutes, one.table) == ("{}_digits", 0.1, "verdict")


@pytest.mark.parametrize("sources", ["two", "four"])
def test_every_method_has_an_experiment(script, sources):
    conf = Path(script.__file__).parents[2] / "conf" / "experiment"
    for method in script.METHODS:
        assert (conf / f"{script.SOURCES[sources].experiment.format(method)}.yaml").is_file()
