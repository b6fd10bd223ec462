"""Hydra creates the folders and runs sweeps; every job runs with the config that was checked."""

import importlib
import os
import sys
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from small_program import Typed

from ssl_runner.cli.app import FAILURE

pytestmark = pytest.mark.usefixtures("small_program")


def test_a_run_gets_the_checked_config_and_a_new_folder_each_time(monkeypatch, capsys):
    typed = [Typed(monkeypatch, "experiment=simclr_mnist optimizer=adam seed=3") for _ in range(2)]
    config, folder = typed[0].jobs[0]
    assert type(config["optimizer"]) is dict
    assert config["optimizer"] == {"_target_": "parts.Adam", "lr": 0.001}
    assert config["seed"] == 3
    assert folder.parent == Path.cwd() / "outputs" / "simclr_mnist"
    assert folder != typed[1].folders[0]
    assert [one.code for one in typed] == [0, 0]
    assert capsys.readouterr().err.count("dropped optimizer.lr=0.3") == 2
    assert (folder / ".hydra" / "overrides.yaml").is_file()
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert sys.argv[0] == "ssl-train"


def test_resume_auto_is_passed_on(monkeypatch):
    typed = Typed(monkeypatch, "resume=auto hydra.run.dir=here")
    assert typed.jobs[0][0]["resume"] == "auto"
    assert typed.folders == [Path.cwd() / "here"]


def test_a_failing_job_lets_the_others_finish_leaves_its_traceback_and_exits_with_1(monkeypatch, capsys):
    def work(config, folder):
        if config["seed"] == 1:
            raise ZeroDivisionError("why")
        (folder / "done").touch()

    typed = Typed(monkeypatch, "seed=1,2,3 -m experiment=simclr_mnist", work)  # flags may stand between overrides
    assert typed.code == 1
    assert [config["seed"] for config, _ in typed.jobs] == [1, 2, 3]
    assert [folder.name for folder in typed.folders] == ["0", "1", "2"]
    assert [(folder / "done").exists() for folder in typed.folders] == [False, True, True]
    assert "ZeroDivisionError: why" in (typed.folders[0] / FAILURE).read_text()
    assert not (typed.folders[1] / FAILURE).exists()
    assert capsys.readouterr().err.count("Traceback") == 1


def test_a_sweeper_that_chooses_jobs_as_it_runs_keeps_control_of_them(tmp_path, monkeypatch):
    own = tmp_path / "installed" / "hydra_plugins" / "own.py"  # where Hydra allows plugins to be
    own.parent.mkdir(parents=True)
    basic = "from hydra._internal.core_plugins.basic_sweeper import BasicSweeper\n"
    own.write_text(f"{basic}\nclass Choosing(BasicSweeper):\n    pass\n")
    monkeypatch.syspath_prepend(own.parents[1])
    choosing = importlib.import_module("hydra_plugins.own").Choosing
    monkeypatch.setitem(Plugins.instance().class_name_to_class, "hydra_plugins.own.Choosing", choosing)
    typed = Typed(monkeypatch, "-m seed=1,2 hydra.sweeper._target_=hydra_plugins.own.Choosing")
    assert typed.code == 0
    assert [config["seed"] for config, _ in typed.jobs] == [1, 2]


def test_a_sweep_file_is_a_sweep_without_a_flag(monkeypatch):
    typed = Typed(monkeypatch, "+sweep=rates")
    assert [config["optimizer"]["lr"] for config, _ in typed.jobs] == [1, 2]


def test_hydra_handles_its_own_flags(monkeypatch, capsys):
    assert Typed(monkeypatch, "--cfg job seed=4").jobs == []
    assert "seed: 4" in capsys.readouterr().out
