"""Command lines with resume=RUN."""

import string

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from small_program import Typed, fail, made

from ssl_runner.cli.app import FAILURE
from ssl_runner.cli.resume import resumed_config
from ssl_runner.config.stored import read_config
from ssl_runner.errors import ConfigError

pytestmark = pytest.mark.usefixtures("small_program")


@pytest.fixture
def stopped_run(settle, tmp_path):
    folder = tmp_path / "a run, (with) odd=name"
    folder.mkdir()
    OmegaConf.save(OmegaConf.create(settle("experiment=simclr_mnist seed=5")[0]), folder / "config.yaml")
    return folder


def test_resume_takes_config_and_folder_from_the_run(monkeypatch, stopped_run):
    before = made()
    typed = Typed(monkeypatch, [f"resume={stopped_run}", "trainer.log_every=1"])
    ((config, folder),) = typed.jobs
    assert (typed.code, folder) == (0, stopped_run)
    assert (config["seed"], config["optimizer"]["lr"], config["trainer"]["log_every"]) == (5, 0.3, 1)
    assert config["resume"] == str(stopped_run)
    assert made() == before


def test_resume_refuses_and_shows_overrides_that_would_change_the_result(stopped_run):
    with pytest.raises(ConfigError) as caught:
        resumed_config(stopped_run, ["optimizer.lr=0.2", "trainer.log_every=1", "seed=5"], "resume", multirun=False)
    (problem,) = caught.value.problems
    assert "optimizer.lr: 0.3 -> 0.2, but that run keeps its own" in problem


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("optimizer=adam", "selects another option"),
        ("model/encoder=resnet", "selects another option"),
        ("trainer.log_evry=1", "did you mean 'trainer.log_every'"),
        ("+a=1", "cannot be set"),
        ("trainer.log_every=1,2", "give one plain value"),
        ("trainer.log_every=a", "trainer.log_every: got 'a' (str), expected int"),
        ("seed=[", "resume="),
    ],
)
def test_resume_refuses_overrides_that_it_cannot_apply(stopped_run, override, why):
    with pytest.raises(ConfigError) as caught:
        resumed_config(stopped_run, [override], "resume", multirun=False)
    assert why in str(caught.value)


@pytest.mark.parametrize(("folder", "why"), [("nowhere", "does not exist"), (".", "has no config.yaml")])
def test_resuming_something_that_is_not_a_run_gives_one_clear_message(monkeypatch, capsys, folder, why):
    assert Typed(monkeypatch, f"resume={folder}").code == 2
    err = capsys.readouterr().err
    assert why in err
    assert err.count("\n") == 1
    assert Typed(monkeypatch, f"-m resume={folder}").code == 2


def test_the_traceback_of_a_failed_attempt_is_removed_by_a_successful_one(monkeypatch, stopped_run):
    Typed(monkeypatch, [f"resume={stopped_run}"], fail(ZeroDivisionError()))
    assert (stopped_run / FAILURE).exists()
    Typed(monkeypatch, [f"resume={stopped_run}"])
    assert not (stopped_run / FAILURE).exists()


def test_a_path_inside_a_run_is_answered_with_the_runs_folder(monkeypatch, capsys, stopped_run):
    (stopped_run / "checkpoints").mkdir()
    (stopped_run / "checkpoints" / "last.pt").write_bytes(b"")
    for part in ("checkpoints/last.pt", "checkpoints", "config.yaml"):
        assert Typed(monkeypatch, [f"resume={stopped_run / part}"]).code == 2
        assert f"give the run's folder: resume={stopped_run}\n" in capsys.readouterr().err


STRINGS = ["12e4", "1e3", "0x1f", "017", "1_000", "yes", "No", "on", "~", "null", "2026-11-27", "12:30:45", ".inf"]
STRINGS += [
    "${oc.env:HOME}",
    "a${b}c",
    r"\${x}",
    r"\\${x}",
    "$${x}",
    "${",
    "}",
    "\\",
    " a ",
    "'q'",
    "caf\u00e9",
    "x\ny",
]


@given(
    st.one_of(st.sampled_from(STRINGS), st.text(r"\${}ab:.'?1e", max_size=12), st.text(string.printable, max_size=9))
)
@example("12e4")
def test_every_string_in_a_config_is_read_back_unchanged(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("run") / "config.yaml"
    path.write_text(yaml.safe_dump({"name": text, "listed": [text]}), encoding="utf-8")
    assert OmegaConf.to_container(read_config(path, "who"), resolve=True) == {"name": text, "listed": [text]}


def test_the_readers_environment_is_not_read(monkeypatch, stopped_run):
    monkeypatch.setenv("SECRET", "hunter2")
    path = stopped_run / "config.yaml"
    path.write_text(path.read_text().replace("name: simclr_mnist", "name: ${oc.env:SECRET}"))
    ((config, _),) = Typed(monkeypatch, [f"resume={stopped_run}"]).jobs
    assert config["name"] == "${oc.env:SECRET}"
