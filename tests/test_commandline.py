"""What one types is answered clearly, by an exit code too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_program import Typed, fail, made

from ssl_runner import commandline
from ssl_runner.help_page import page

pytestmark = pytest.mark.usefixtures("small_program")


def test_a_mistake_makes_no_folder_prints_one_message_and_exits_with_2(monkeypatch, capsys):
    typed = Typed(monkeypatch, "trainer.max_step=3")
    assert (typed.code, typed.jobs, made()) == (2, [], [])
    out, err = capsys.readouterr()
    assert err == "trainer.max_step: there is no such key; did you mean 'trainer.max_steps'?\n"
    assert out == ""


def test_an_interrupted_run_exits_with_130(monkeypatch, capsys):
    assert Typed(monkeypatch, "", fail(KeyboardInterrupt())).code == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert Typed(monkeypatch, "", fail(KeyboardInterrupt("stopped after step 3"))).code == 130
    assert capsys.readouterr().err == "stopped after step 3\n"


def test_a_folder_of_ones_own_adds_options(monkeypatch, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 9\noptimizer: {lr: 5}\n")
    typed = Typed(monkeypatch, "--config-dir mine experiment=own optimizer=adam")
    assert typed.jobs[0][0]["seed"] == 9
    assert typed.jobs[0][0]["optimizer"]["lr"] == 0.001
    assert Typed(monkeypatch, "--config-path mine").code == 2


def test_the_help_page_lists_what_the_conf_folder_holds(small_conf):
    lines = page(small_conf).splitlines()
    assert "  simclr_mnist  SimCLR, as in the paper." in lines
    assert "  model/encoder  conv* resnet" in lines
    assert "  eval           few_shot* knn*" in lines
    assert "  max_steps=10  log_every=5" in lines


PROGRAM = """
import sys
from pathlib import Path
from ssl_runner import train
for line in (["--help"], ["--version"], ["experiment=simclr_mnits", "trainer.max_step=1"]):
    sys.argv = ["ssl-train", *line]
    try:
        train.main()
    except SystemExit as done:
        print("code", done.code)
print("torch" in sys.modules, [path.name for path in Path().iterdir()])
"""


def test_the_real_program_answers_from_any_folder_without_torch():
    root = Path(commandline.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("code")] == ["code 0", "code 0", "code 2"]
    assert lines[-1] == "False []"
    assert "did you mean 'simclr_mnist'?" in done.stderr
    assert "did you mean 'trainer.max_steps'?" in done.stderr
    help_page = lines[: lines.index("code 0")]
    assert len(help_page) < 120
    assert max(map(len, help_page)) <= 120
    text = "\n".join(help_page)
    assert all(path.stem in text for path in (root / "conf").glob("*/*.yaml"))
