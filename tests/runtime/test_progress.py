import time

import pytest

from ssl_runner.runtime import progress
from ssl_runner.runtime.console import Console


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets forward."""
    seconds = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    return lambda by: seconds.__setitem__(0, seconds[0] + by)


def test_words_name_the_parts_and_count(clock):
    said: list[str] = []
    with progress.shown_by(said.append), progress.part("few_shot"):
        with progress.part("5w1s"):
            clock(progress.PAUSE)
            progress.at(320, 1000, "tasks")
        with progress.part("5w5s"):
            clock(progress.PAUSE)
            progress.at(1000, 1000, "tasks")
    assert said == [
        "few_shot",
        "few_shot, 5w1s",
        "few_shot, 5w1s, 320 of 1,000 tasks",
        "few_shot, 5w5s",
        "few_shot, 5w5s, 1,000 of 1,000 tasks",
    ]


def test_counts_that_follow_each_other_closely_are_left_out(clock, monkeypatch):
    monkeypatch.setattr(progress, "PAUSE", 1.0)
    said: list[str] = []
    with progress.shown_by(said.append):
        for done in range(1000):
            progress.at(done, 1000, "steps")
            clock(1 / 8)
    assert said == [f"{done} of 1,000 steps" for done in range(0, 1000, 8)]


def test_nothing_is_said_outside(clock):
    said: list[str] = []
    with progress.shown_by(said.append):
        pass
    with progress.part("few_shot"):
        clock(progress.PAUSE)
        progress.at(1, 2, "tasks")
    assert said == []


def test_a_part_that_fails_is_no_longer_named(clock):
    said: list[str] = []
    with progress.shown_by(said.append):
        with pytest.raises(KeyError), progress.part("knn"):
            raise KeyError
        with progress.part("linear_probe"):
            pass
    assert said == ["knn", "linear_probe"]


def test_a_terminal_shows_it_after_the_activity(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Console(stderr=True).working("evaluating [the] encoder"):
        two_tasks()
    assert "evaluating [the] encoder: few_shot, 2 of 2 tasks" in capsys.readouterr().err


def two_tasks() -> None:
    with progress.part("few_shot"):
        for done in (1, 2):
            time.sleep(progress.PAUSE)
            progress.at(done, 2, "tasks")
    time.sleep(progress.PAUSE)  # the line is drawn twelve times a second


def test_a_log_gets_nothing_of_it(capsys):
    with Console(stderr=True).working("evaluating"):
        two_tasks()
    assert capsys.readouterr().err == ""
