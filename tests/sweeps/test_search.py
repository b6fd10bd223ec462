"""A search: trials are drawn by seed, survive a kill at any moment, and are judged by validation figures only."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from ssl_runner.config.hashing import config_hash
from ssl_runner.errors import InvalidValue
from ssl_runner.sweeps import manifest
from ssl_runner.sweeps.manifest import Job, Manifest
from ssl_runner.sweeps.search import study
from ssl_runner.sweeps.search.figures import Figures
from ssl_runner.sweeps.search.settings import Search
from ssl_runner.sweeps.search.spaces import Choices, Numbers, combinations, refuse
from ssl_runner.sweeps.search.study import Study
from ssl_runner.sweeps.search.trials import Trials
from ssl_runner.sweeps.sweep import Sweep

pytest.importorskip("optuna")
SPACES = [Numbers("temperature", 0.01, 1.0, log=True), Numbers("width", 16, 64, (16, 32, 48, 64), whole=True)]
STEPS = 6


def settings(**changes: Any) -> Search:
    usual = {"metric": "knn/top1", "direction": "maximize", "trials": 8, "sampler": "tpe", "startup_trials": 3}
    pruning = {"seed": 0, "prune": True, "prune_after_trials": 2, "prune_after_steps": 0, "params": None}
    return Search(**(usual | pruning | changes))


def opened(folder: Path, search: Search, spaces=SPACES, make=None) -> Trials:
    """A search as a command finds it: new, or what an earlier one left."""
    if not (folder / manifest.FILE).exists():
        Manifest.of("", None, [], [], []).write(folder)
    sweep = Sweep(folder, manifest.read(folder), None)
    assert search.trials is not None
    return Trials(sweep, Study(folder, "content", search, spaces), search.trials, make or job, lambda *_: None)


def job(index: int, values: dict[str, Any]) -> Job:
    config = {"trainer": {"select": "knn/top1"}, **values}
    return Job(f"trial={index}", [f"{key}={value}" for key, value in values.items()], config, config_hash(config), None)


def write(sweep: Sweep, number: int, status: str, figures: list[float], **fields: Any) -> None:
    """What a run leaves in its folder: rows of training and validation, and a result with a far better test figure."""
    folder = sweep.folder_of(number)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": 1, "train/loss": 0.5, "eval/knn/top1": 1.0}]
    rows += [{"step": 2 * n + 2, "eval/validation/knn/top1": figure} for n, figure in enumerate(figures)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {"status": status, "config_hash": sweep.jobs[number].config_hash, "metrics": {"knn/top1": 1.0}}
    (folder / "result.json").write_text(json.dumps(content | {"planned_steps": STEPS} | fields))


def figure(config: dict[str, Any]) -> float:
    return 1 - abs(config["temperature"] - 0.2) - config["width"] / 1000


def finish(trials: Trials, number: int) -> None:
    write(trials.sweep, number, "finished", [figure(trials.sweep.jobs[number].config)])
    trials.sweep.look(number, 0)
    trials.ended(number)


def play(trials: Trials, most: int = 100) -> None:
    while most and (number := trials.next()) is not None:
        finish(trials, number)
        most -= 1


def drawn(trials: Trials) -> list[dict[str, Any]]:
    return [one.params for one in trials.study.trials]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_a_search_cut_into_pieces_draws_the_trials_of_an_unbroken_one(sampler, tmp_path):
    search = settings(sampler=sampler)
    whole = opened(tmp_path / "whole", search)
    play(whole)
    for _ in range(8):
        play(opened(tmp_path / "pieces", search), most=1)
    pieces = opened(tmp_path / "pieces", search)
    assert pieces.is_empty() and pieces.next() is None
    assert drawn(pieces) == drawn(whole)
    assert len({json.dumps(one) for one in drawn(whole)}) == 8
    other = opened(tmp_path / "other", settings(sampler=sampler, seed=1))
    play(other)
    assert drawn(other) != drawn(whole)


def test_more_trials_of_a_finished_search_are_those_that_it_would_have_drawn(tmp_path):
    play(opened(tmp_path / "long", settings(trials=8)))
    play(opened(tmp_path / "short", settings(trials=5)))
    grown = opened(tmp_path / "short", settings(trials=8))
    assert grown.sweep.to_come == 3
    play(grown)
    assert drawn(grown) == drawn(opened(tmp_path / "long", settings(trials=8)))


def test_a_trial_that_was_at_work_goes_on_and_one_half_drawn_is_drawn_once_more(tmp_path):
    whole = opened(tmp_path / "whole", settings())
    play(whole)
    killed = opened(tmp_path / "killed", settings())
    play(killed, most=3)
    number = killed.next()
    assert number == 3
    resumed = opened(tmp_path / "killed", settings())
    assert resumed.next() == number  # same job, so same values and checkpoint
    finish(resumed, number)
    resumed.study.ask()  # and killed before the manifest was written
    with (tmp_path / "killed" / study.FILE).open("a") as file:  # in the middle of a line
        file.write('{"op_code":')
    last = opened(tmp_path / "killed", settings())
    play(last)
    assert drawn(last) == drawn(whole)
    assert [one.name for one in last.sweep.jobs] == [one.name for one in whole.sweep.jobs]


def test_a_job_that_ended_unseen_is_recorded_and_not_run_again(tmp_path):
    first = opened(tmp_path, settings(trials=2))
    number = first.next()
    assert number is not None
    write(first.sweep, number, "finished", [0.5])
    second = opened(tmp_path, settings(trials=2))
    assert second.study.trials[0].value == 0.5
    assert second.next() == 1


def test_equal_trials_are_one_job(tmp_path):
    spaces = [Choices("temperature", ("0.1", "0.2"))]
    made = []

    def make(index: int, values: dict[str, Any]) -> Job:
        made.append(values["temperature"])
        return job(index, {"temperature": float(values["temperature"]), "width": 0})

    trials = opened(tmp_path, settings(trials=8, sampler="random"), spaces, make)
    first, second = trials.next(), trials.next()  # two at once: a third equal one waits for the first
    assert {first, second} == {0, 1}
    assert trials.next() is None and len(made) == 8
    finish(trials, 0)
    finish(trials, 1)
    assert len(trials.sweep.jobs) == 2
    assert sorted({one.value for one in trials.study.trials}, key=str) == sorted([0.9, 1.0], key=str)
    assert trials.study.count("COMPLETE") == 8


def test_a_bad_trial_is_given_up_once_and_never_run_again(tmp_path):
    trials = opened(tmp_path, settings(trials=4))
    for good in (0.7, 0.8, 0.9):
        number = trials.next()
        assert number is not None
        write(trials.sweep, number, "finished", [good, good])
        trials.sweep.look(number, 0)
        trials.ended(number)
    bad = trials.next()
    assert bad == 3
    write(trials.sweep, bad, "running", [])
    assert not trials.gives_up(bad)
    write(trials.sweep, bad, "running", [0.1])
    assert trials.gives_up(bad)
    assert not trials.gives_up(bad)
    write(trials.sweep, bad, "interrupted", [0.1])
    trials.sweep.look(bad, 130)
    trials.ended(bad)
    assert trials.sweep.states[bad].status == "pruned"
    again = opened(tmp_path, settings(trials=4))
    assert again.next() is None and again.is_empty()
    assert again.sweep.states[bad].status == "pruned"
    assert [one.state.name for one in again.study.trials] == ["COMPLETE"] * 3 + ["PRUNED"]


@pytest.mark.parametrize(("prune", "figures"), [(False, [0.1]), (True, [0.9]), (True, [0.9, 0.9, 0.1])])
def test_no_trial_is_given_up_that_is_good_or_at_its_last_step_or_if_none_is_to_be(prune, figures, tmp_path):
    trials = opened(tmp_path, settings(trials=4, prune=prune))
    for _ in range(3):
        number = trials.next()
        assert number is not None
        write(trials.sweep, number, "finished", [0.5, 0.5, 0.5])
        trials.sweep.look(number, 0)
        trials.ended(number)
    number = trials.next()
    assert number is not None
    write(trials.sweep, number, "running", figures)
    assert not trials.gives_up(number)
    assert [one.intermediate_values for one in trials.study.trials][-1] == {
        2 * n + 2: value for n, value in enumerate(figures)
    }


def test_failures_are_recorded_and_the_search_goes_on(tmp_path):
    def make(index: int, values: dict[str, Any]) -> Job:
        if index == 0:
            raise InvalidValue("temperature=0.1 is refused")
        return job(index, values)

    trials = opened(tmp_path, settings(trials=3), make=make)
    number = trials.next()
    assert number == 0 and trials.sweep.jobs[0].name == "trial=1"
    write(trials.sweep, number, "failed", [], reason="the loss is not finite")
    trials.sweep.look(number, 1)
    trials.ended(number)
    play(trials)
    found = trials.study.trials
    assert [one.state.name for one in found] == ["FAIL", "FAIL", "COMPLETE"]
    assert [trials.study.reason(one) for one in found] == ["temperature=0.1 is refused", "the loss is not finite", ""]
    again = opened(tmp_path, settings(trials=3), make=make)
    assert again.next() is None
    assert again.sweep.states[0].reason == "the loss is not finite"


def test_an_interrupted_trial_stays_for_the_next_command(tmp_path):
    trials = opened(tmp_path, settings(trials=2))
    number = trials.next()
    assert number is not None
    write(trials.sweep, number, "interrupted", [0.5])
    trials.sweep.look(number, 130)
    trials.ended(number)
    assert trials.next() == 1
    assert opened(tmp_path, settings(trials=2)).next() == number
    trials.again(number)
    assert trials.next() == number


def test_the_best_trial_depends_on_the_direction(tmp_path):
    for direction, best in (("maximize", 1), ("minimize", 2)):
        trials = opened(tmp_path / direction, settings(trials=4, direction=direction, prune=False))
        for value in (0.5, 0.9, 0.1, 0.9):
            number = trials.next()
            assert number is not None
            write(trials.sweep, number, "finished", [value])
            trials.sweep.look(number, 0)
            trials.ended(number)
        assert trials.study.best is not None and trials.study.best.number == best


def test_figures_are_those_of_validation_each_step_once_and_the_last_is_the_kept_checkpoints(tmp_path):
    path, prefix = tmp_path / "metrics.jsonl", "eval/validation/"

    def row(step: int, value: float, select: float) -> str:
        tags = {"eval/knn/top1": 1.0, f"{prefix}knn/top1": value, f"{prefix}probe/top1": select}
        return json.dumps({"step": step, **tags}) + "\n"

    figures = Figures(tmp_path, "knn/top1", "probe/top1")
    assert list(figures.fresh()) == [] and figures.final is None
    path.write_text(row(2, 0.1, 0.5) + '{"step": 3, "eval/knn/top1": 0.9}\n' + row(4, 0.2, 0.8)[:-9])
    assert list(figures.fresh()) == [(2, 0.1)]
    other = tmp_path / "other"
    other.write_text(row(2, 0.1, 0.5) + row(4, 0.2, 0.8))  # cut back and gone on with by a resumed run
    other.replace(path)
    assert list(figures.fresh()) == [(4, 0.2)]
    with path.open("a") as file:
        file.write(row(6, 0.3, 0.8))
    assert list(figures.fresh()) == [(6, 0.3)] and list(figures.fresh()) == []
    assert figures.final == 0.2


def test_a_grid_runs_each_combination_once(tmp_path):
    spaces = [Choices("temperature", ("0.1", "0.2")), Numbers("width", 16, 48, (16, 32, 48), whole=True)]
    assert combinations(spaces) == 6

    def make(index: int, values: dict[str, Any]) -> Job:
        return job(index, {"temperature": float(values["temperature"]), "width": values["width"]})

    search = settings(trials=6, sampler="grid")
    play(opened(tmp_path, search, spaces, make), most=2)
    trials = opened(tmp_path, search, spaces, make)
    play(trials)
    expected = [(t, w) for t in ("0.1", "0.2") for w in (16, 32, 48)]
    assert [(one["temperature"], one["width"]) for one in drawn(trials)] == expected
    assert len(trials.sweep.jobs) == 6


def test_a_journal_of_another_search_or_a_damaged_one_is_refused(tmp_path):
    play(opened(tmp_path, settings(trials=2)))
    with pytest.raises(InvalidValue, match=r"holds another search; give another hydra.sweep.dir"):
        Study(tmp_path, "other", settings(), SPACES)
    path = tmp_path / study.FILE
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(InvalidValue, match=r"is damaged .* delete it and give the command again"):
        Study(tmp_path, "content", settings(), SPACES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": None}, "hydra.sweeper.metric: a search needs a figure of validation"),
        (
            {"metric": "test/knn/top1"},
            "test/knn/top1 is a figure of test images; .* give hydra.sweeper.metric=knn/top1",
        ),
        ({"metric": "eval/knn/top1"}, "eval/knn/top1 is a figure of test images"),
        ({"sampler": "tpee"}, "hydra.sweeper.sampler: got 'tpee'; did you mean 'tpe'"),
        ({"direction": "up"}, "hydra.sweeper.direction: got 'up'; expected maximize or minimize"),
        ({"trials": 0}, "hydra.sweeper.trials: got 0; it must be at least 1"),
        ({"seed": -1}, "hydra.sweeper.seed: got -1; it must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(InvalidValue, match=message):
        settings(**changes)


def test_a_validation_tag_is_taken_as_the_metric():
    assert settings(metric="eval/validation/knn/top1").metric == "knn/top1"


def test_spaces_that_a_sampler_cannot_take_are_refused():
    with pytest.raises(InvalidValue, match=r"temperature: a grid has no intervals; give values, as temperature=0.01,1"):
        refuse(SPACES, "grid")
    with pytest.raises(InvalidValue, match="cmaes needs two spaces of numbers"):
        refuse([Choices("a", ("1", "2")), SPACES[0]], "cmaes")
    refuse(SPACES, "cmaes")


def test_numbers_are_written_as_on_the_command_line():
    row = Numbers("lr", 0.1, 0.3, (0.1, 0.2, 0.3))
    assert row.text(0.1 + 0.2) == "0.3"
    assert Numbers("width", 16, 64, (16, 32, 48, 64), whole=True).text(32) == "32"
    assert float(SPACES[0].text(0.123456789012345)) == 0.123456789012345
    with pytest.raises(InvalidValue, match="tag log needs numbers above 0"):
        Numbers("a", 0.0, 1.0, log=True)
    with pytest.raises(InvalidValue, match="give the lower first"):
        Numbers("a", 1.0, 0.0)
    with pytest.raises(InvalidValue, match="tag log and a row"):
        Numbers("a", 16, 48, (16, 32, 48), log=True, whole=True)


@pytest.mark.parametrize(("sampler", "absent"), [("tpe", "optuna"), ("cmaes", "cmaes")])
def test_without_the_extra_the_message_says_what_to_install(sampler, absent, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else found(name))
    with pytest.raises(InvalidValue, match=r"pip install 'ssl-runner\[search\]'"):
        settings(sampler=sampler)
