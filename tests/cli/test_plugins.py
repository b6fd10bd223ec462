"""A plugin installed from its wheel: losses, options, recipes, help and completion."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import children
import deeds
import pytest

from ssl_runner.cli.search_path import conf_folder, plugin_folders
from ssl_runner.config import plugins
from ssl_runner.errors import ConfigError

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "docs" / "plugin_template"
SHORT = ["trainer.max_epochs=null", "trainer.max_steps=2", "trainer.progress=false", "eval=[]", "baselines=[]"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder for modules in which the template's wheel is installed."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the template's wheel, is not installed")
    base = tmp_path_factory.mktemp("plugin")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", base / "wheels", TEMPLATE]
    subprocess.run(wheel, check=True)
    (built,) = (base / "wheels").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", base / "site", built], check=True)
    return base / "site"


@pytest.fixture
def typed(site, tmp_path, monkeypatch):
    """Runs ``ssl-train WORDS`` in a process that finds the plugin."""
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    on_the_path = functools.partial(deeds.modules_lie_in, site)
    return lambda *words: children.command(tmp_path / "logs", words, on_the_path)


def test_a_plugins_recipe_runs_and_its_loss_is_in_the_config(typed):
    done = typed("experiment=margin_nt_xent_digits", *SHORT)
    assert done.code == 0, done.err
    run = Path(done.out.splitlines()[-1])
    assert "_target_: margin_losses.margin_nt_xent.MarginNTXent" in (run / "config.yaml").read_text()
    assert json.loads((run / "result.json").read_text())["status"] == "finished"
    again = typed(f"reproduce={run}")
    assert again.code == 0, again.err


def test_help_and_completion_list_the_plugin(typed, monkeypatch):
    listed = typed("--help").out
    assert "margin_nt_xent" in listed
    assert "margin_nt_xent_digits" in listed
    assert "loss.margin=" in typed("--help", "loss=margin_nt_xent").out
    monkeypatch.setenv("COMP_LINE", "ssl-train loss=margin")
    monkeypatch.setenv("COMP_POINT", str(len("ssl-train loss=margin")))
    assert "loss=margin_nt_xent" in typed("-sc", "query=bash").out.split()


def test_a_refused_value_and_a_typo_in_a_plugin_are_reported_like_our_own(typed):
    wrong = typed("loss=margin_nt_xent", "loss.margin=3")
    assert (wrong.code, wrong.err) == (2, "loss: margin=3; give a number in [0, 2)\n")
    typo = typed("loss=margin_nt_xnt")
    assert typo.code == 2
    assert "did you mean 'margin_nt_xent'?" in typo.err


def test_the_plugins_own_tests_pass(site):
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEMPLATE / "tests"]
    paths = os.pathsep.join([str(site), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(tests, env=environment, cwd=TEMPLATE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_trusted_package_is_searched_without_being_installed(tmp_path, monkeypatch):
    shutil.copytree(TEMPLATE / "margin_losses", tmp_path / "margin_losses")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "margin_losses, math.sqrt")
    assert plugins.packages() == ("margin_losses", "math.sqrt")
    assert plugin_folders() == [tmp_path / "margin_losses" / "conf"]


def test_an_option_that_already_exists_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine" / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").touch()
    shutil.copy(conf_folder() / "loss" / "nt_xent.yaml", tmp_path / "mine" / "conf" / "loss" / "nt_xent.yaml")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "mine")
    with pytest.raises(
        ConfigError, match=r"nt_xent\.yaml: ssl_runner also has an option loss/nt_xent; give it another"
    ):
        plugin_folders()
