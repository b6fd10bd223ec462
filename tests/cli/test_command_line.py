"""Every command line gets a clear answer and the right exit code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_program import Typed, fail, made

from ssl_runner.cli import command_line
from ssl_runner.cli.help_page import page

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


def test_a_config_folder_of_the_users_own_adds_options(monkeypatch, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 9\noptimizer: {lr: 5}\n")
    typed = Typed(monkeypatch, "--config-dir mine experiment=own optimizer=adam")
    assert typed.jobs[0][0]["seed"] == 9
    assert typed.jobs[0][0]["optimizer"]["lr"] == 0.001
    assert Typed(monkeypatch, "--config-path mine").code == 2


def problems(monkeypatch, capsys, line):
    before, typed = made(), Typed(monkeypatch, line)
    assert (typed.code, typed.jobs, made()) == (2, [], before)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["~eval"], "~eval: eval is a list of options; write eval=[] for none"),
        (["~eval=knn"], "~eval=knn: eval is a list of options; write eval=[] for none"),
        (["eval=null"], "or eval=[] for none"),
        (["+experiment=simclr_mnist"], "write experiment=simclr_mnist, without the +"),
        (["+optimizer=adam"], "write optimizer=adam, without the +"),
        (["++optimizer=adam"], "write optimizer=adam, without the +"),
        (["+model/encoder=conv"], "write model/encoder=conv, without the +"),
        (
            ["name=a b(c"],
            """name=a b(c: cannot be read; the value has special characters, so quote it: "name='a b(c'\"""",
        ),
        (['name="x'], "cannot be read; the value has special characters, so quote it"),
        (["optimizer", "adam"], "optimizer: cannot be read; write key=value\nadam: cannot be read; write key=value"),
        (["--config-name", "nope"], "--config-name: there is no nope.yaml in"),
    ],
)
def test_idioms_of_other_projects_are_answered_with_the_right_spelling(monkeypatch, capsys, line, said):
    err = problems(monkeypatch, capsys, line)
    assert said in err
    assert "Exception" not in err
    assert "Multiple values" not in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--cfg", "--cfg: it needs a value; expected job, hydra or all"),
        ("-c jobs", "--cfg: got 'jobs'; expected job, hydra or all"),
        ("--info nothing", "--info: got 'nothing'; expected all, config"),
        ("--package", "--package: it needs a value"),
        ("-p optimizer", "--package: it needs --cfg, since it controls how a config is shown; add --cfg job"),
        ("--resolve seed=1", "--resolve: it needs --cfg, since it controls how a config is shown; add --cfg job"),
        ("-cn", "--config-name: it needs a value"),
        ("seed=1 -cd", "--config-dir: it needs a value"),
        ("-cp conf", "add your own with --config-dir"),
        ("--experimental-rerun a.pickle", "write reproduce=RUN"),
        ("-sc", "--shell-completion: it needs a shell, install=bash, zsh or fish"),
        ("-m -r", "leave one of them out"),
        ("--multirum", "--multirum: there is no such flag; did you mean '--multirun'?"),
        ("-x seed=1", "-x: there is no such flag; see ssl-train --help"),
    ],
)
def test_a_wrong_flag_is_reported_in_one_sentence(monkeypatch, capsys, line, said):
    err = problems(monkeypatch, capsys, line)
    assert said in err
    assert err.count("\n") == 1
    assert "usage" not in err


@pytest.mark.parametrize(
    "line", ["--cfg job seed=7", "seed=7 --cfg job", "seed=7 --cfg job trainer.log_every=3", "-c=job seed=7"]
)
def test_flags_may_be_anywhere(monkeypatch, capsys, line):
    typed = Typed(monkeypatch, line)
    assert (typed.code, typed.jobs) == (0, [])
    assert "seed: 7\n" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["seed=1,2 -m trainer.log_every=1", "-m seed=1,2", "seed=1,2 --multirun"])
def test_the_flag_of_a_sweep_may_be_anywhere(monkeypatch, line):
    assert [config["seed"] for config, _ in Typed(monkeypatch, line).jobs] == [1, 2]


@pytest.mark.parametrize("line", ["--info", "--info seed=1", "seed=1 --info defaults", "-i searchpath seed=1"])
def test_hydra_answers_its_own_info_flag(monkeypatch, line):
    typed = Typed(monkeypatch, line)
    assert (typed.code, typed.jobs, made()) == (0, [], [])


def test_glob_names_the_options_of_a_group(monkeypatch):
    jobs = Typed(monkeypatch, ["-m", "optimizer=glob(*)"]).jobs
    assert [config["optimizer"]["_target_"] for config, _ in jobs] == ["parts.Adam", "parts.SGD"]
    jobs = Typed(monkeypatch, ["-m", "experiment=glob(*,exclude=miss*)"]).jobs
    assert [config["name"] for config, _ in jobs] == ["child", "simclr_mnist"]


def test_the_overrides_may_name_the_folders(monkeypatch):
    line = ["-m", "seed=1,2", "hydra.sweep.dir=out", "hydra.sweep.subdir=${hydra.job.override_dirname}"]
    assert [folder.name for _, folder in Typed(monkeypatch, line).jobs] == ["seed=1", "seed=2"]
    ((_, folder),) = Typed(monkeypatch, ["seed=3", "hydra.run.dir=out/${hydra.job.override_dirname}"]).jobs
    assert folder.name == "seed=3"


@pytest.mark.parametrize("subdir", [".", "same", "${seed}"])
def test_jobs_that_would_share_a_folder_are_refused_before_any_starts(monkeypatch, capsys, subdir):
    line = ["-m", "trainer.log_every=1,2", "hydra.sweep.dir=out", f"hydra.sweep.subdir={subdir}"]
    err = problems(monkeypatch, capsys, line)
    assert "hydra.sweep.subdir: 2 of the 2 jobs would work in the folder out" in err
    assert "override_dirname" in err


def test_interpolations_that_hydra_documents_are_filled_in(monkeypatch):
    line = ["-m", "seed=1,2", "name=${now:%Y}_${hydra:job.num}_${hydra.job.name}_${hydra:runtime.choices.optimizer}"]
    names = [config["name"] for config, _ in Typed(monkeypatch, line).jobs]
    assert [name.split("_")[1:] for name in names] == [["0", *names[0].split("_")[2:]], ["1", *names[0].split("_")[2:]]]
    assert all(name.endswith("_sgd") and name.startswith("20") for name in names)


BAD_FILES = {
    "list": (b"- a\n- b\n", "is a list, expected keys and values"),
    "text": (b"just text\n", "is plain text, expected keys and values"),
    "empty": (b"", "is empty"),
    "latin": ("# @package _global_\nname: caf\u00e9\n".encode("latin-1"), "is not UTF-8 (byte 0xe9 in line 2)"),
    "mark": (b"\xef\xbb\xbf# @package _global_\nname: x\n", "begins with a byte-order mark"),
    "tab": (b"# @package _global_\noptimizer:\n\tlr: 1\n", "is not valid YAML in line 3"),
    "open": (b'# @package _global_\nname: "x\n', "is not valid YAML"),
    "headless": (b"name: x\n", "lacks the line '# @package _global_'"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_an_invalid_experiment_file_is_named_with_the_reason(monkeypatch, capsys, tmp_path, kind):
    content, said = BAD_FILES[kind]
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    path = tmp_path / "mine" / "experiment" / f"{kind}.yaml"
    path.write_bytes(content)
    err = problems(monkeypatch, capsys, f"--config-dir mine experiment={kind}")
    assert f"{path} {said}" in err
    assert err.count("\n") == 1


def test_an_invalid_file_that_another_file_names_is_reported_too(monkeypatch, capsys, tmp_path):
    for folder in ("experiment", "optimizer"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    (tmp_path / "mine" / "optimizer" / "broken.yaml").write_bytes(b"_target_: caf\xe9\n")
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(
        "# @package _global_\ndefaults: [override /optimizer: broken]\n"
    )
    assert "optimizer/broken.yaml is not UTF-8" in problems(monkeypatch, capsys, "--config-dir mine experiment=own")


def test_the_help_page_lists_the_content_of_the_conf_folder(small_conf):
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
    root = Path(command_line.__file__).parents[2]
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
    assert len(help_page) < 140
    assert max(map(len, help_page)) <= 120
    text = "\n".join(help_page)
    options = {path.stem for path in (root / "conf").glob("*/*.yaml") if path.parent.name != "suite"}  # of ssl-eval
    assert all(name in text for name in options - names_in_braces(text))
    assert "\n  mae_{cifar10,fashion_mnist,imagenet,tiny_imagenet}  " in text
    assert names_in_braces(text) <= options


def names_in_braces(text: str) -> set[str]:
    """Experiments as a shell would write out the lines of the help page."""
    found = re.findall(r"^  (\w+)\{([\w*,]+)\}", text, re.MULTILINE)
    return {f"{method}{data}" for method, several in found for data in several.replace("*", "").split(",")}


def test_recipes_of_a_method_share_a_line_with_the_sentence_of_the_first(small_conf, tmp_path):
    conf = shutil.copytree(small_conf, tmp_path / "conf")
    sentences = {"digits": "MAE.", "tiny_digits": "A third.", "vit_digits": "Another.", "pp_digits": "Not it."}
    for name, said in sentences.items():
        (conf / "experiment" / f"mae_{name}.yaml").write_text(f"# @package _global_\n# {said}\nname: mae_{name}\n")
    for name in ("digits", "tiny_digits"):
        (conf / "dataset").mkdir(exist_ok=True)
        (conf / "dataset" / f"{name}.yaml").write_text("size: 8\n")
    lines = [" ".join(line.split()) for line in page(conf).splitlines()]
    assert "mae_{digits,tiny_digits,vit_digits} MAE." in lines
    assert "mae_pp_digits Not it." in lines
