"""What one types is checked before anything is made, and answered clearly."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ssl_runner import commandline, schema
from ssl_runner.composition import Composer
from ssl_runner.config import ConfigError
from ssl_runner.help_page import page
from ssl_runner.resuming import resumed_config
from ssl_runner.signatures import Node
from ssl_runner.targets import locate

PARTS = """
class SGD:
    def __init__(self, lr: float, momentum: float): pass

class Adam:
    def __init__(self, lr: float): pass

class Conv:
    def __init__(self, width: int, grid: int | None): pass

class ResNet:
    def __init__(self, depth: int): pass

class Score:
    def __init__(self, k: int, inner: list[int] | None = None): pass

class Trainer:
    def __init__(self, max_steps: int | None, log_every: int): pass
"""

CONF = {
    "config": """
        defaults:
          - optimizer: sgd
          - model/encoder: conv
          - eval: [knn, few_shot]
          - trainer: default
          - _self_
          - experiment: null
          - override hydra/job_logging: disabled
          - override hydra/hydra_logging: disabled
        name: run
        seed: 0
        resume: null
        hydra:
          run: {dir: "outputs/${name}/${unique:}"}
          sweep: {dir: "outputs/${name}/${unique:}", subdir: "${hydra.job.num}"}
        """,
    "optimizer/sgd": "{_target_: parts.SGD, lr: 0.1, momentum: 0.9}",
    "optimizer/adam": "{_target_: parts.Adam, lr: 0.001}",
    "model/encoder/conv": "{_target_: parts.Conv, width: 64, grid: 2}",
    "model/encoder/resnet": "{_target_: parts.ResNet, depth: 18}",
    "eval/knn": "# @package eval.knn\n{_target_: parts.Score, k: 200}",
    "eval/few_shot": "# @package eval.few_shot\n{_target_: parts.Score, k: 5}",
    "trainer/default": "{_target_: parts.Trainer, max_steps: 10, log_every: 5}",
    "experiment/simclr_mnist": """
        # @package _global_
        # SimCLR, as in the paper.
        name: simclr_mnist
        optimizer: {lr: 0.3}
        model: {encoder: {grid: null}}
        eval: {knn: {k: 20}, few_shot: {k: 1, inner: [1, 2]}}
        trainer: {max_steps: 7}
        """,
    "experiment/child": """
        # @package _global_
        defaults: [simclr_mnist, override /optimizer: adam, _self_]
        name: child
        trainer: {log_every: 1}
        """,
    "experiment/misspelled": """
        # @package _global_
        optimizer: {weight_decya: 1}
        """,
    "sweep/rates": """
        # @package _global_
        hydra: {mode: MULTIRUN, sweeper: {params: {optimizer.lr: "1,2"}}}
        """,
}

ROOT = {"optimizer": Node, "model.encoder": Node, "eval.*": Node | None, "trainer": Node}
ROOT |= {"name": str, "seed": int, "resume": str | None}


def dedent(text):
    lines = text.strip("\n").splitlines()
    return "\n".join(line.removeprefix(" " * 8) for line in lines).rstrip() + "\n"


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    (folder / "parts.py").write_text(PARTS)
    for name, text in CONF.items():
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return folder / "conf"


@pytest.fixture(autouse=True)
def program(conf, tmp_path, monkeypatch):
    """A small program of its own, in an empty working folder."""
    monkeypatch.syspath_prepend(conf.parent)
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "parts")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(commandline, "conf_folder", lambda: conf)
    monkeypatch.setattr(schema, "ROOT_KEYS", ROOT)
    monkeypatch.setattr(schema, "SUPPLIED", {})
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("parts", None)


@pytest.fixture
def settle(conf):
    return lambda line: commandline.settled(Composer(conf), line.split())


@pytest.fixture
def told(settle):
    def problems(line):
        with pytest.raises(ConfigError) as caught:
            settle(line)
        return caught.value.problems

    return problems


class Typed:
    """What became of a command line: exit code, and the config and folder of every job."""

    def __init__(self, monkeypatch, line, work=lambda config, folder: None, prepare=lambda config: "wired"):
        self.jobs = []
        self.rehearsed = []

        def run(config, folder, prepared):
            self.jobs.append((config, folder))
            return work(config, folder)

        monkeypatch.setattr(sys, "argv", ["ssl-train", *(line if isinstance(line, list) else line.split())])
        self.code = commandline.main(commandline.Program(prepare, run, self.rehearsed.append))

    @property
    def folders(self):
        return [folder for _, folder in self.jobs]


def made():
    return sorted(path.relative_to(Path.cwd()).as_posix() for path in Path.cwd().rglob("*"))


# selecting another option over an experiment


def test_an_experiment_keeps_its_values_while_its_options_stay(settle):
    config, dropped = settle("experiment=simclr_mnist")
    assert dropped == []
    assert config["optimizer"]["lr"] == 0.3
    assert config["eval"]["few_shot"]["inner"] == [1, 2]


def test_a_deselected_option_takes_the_experiments_values_along_and_says_so(settle):
    config, dropped = settle("experiment=simclr_mnist optimizer=adam")
    assert config["optimizer"] == {"_target_": "parts.Adam", "lr": 0.001}
    assert dropped == ["optimizer=adam: dropped optimizer.lr=0.3, which experiment simclr_mnist set for optimizer=sgd"]
    assert config["trainer"]["max_steps"] == 7
    assert config["model"]["encoder"]["grid"] is None


def test_the_command_lines_own_values_stand(settle):
    config, dropped = settle("experiment=simclr_mnist optimizer=adam optimizer.lr=0.3")
    assert config["optimizer"]["lr"] == 0.3
    assert dropped == []


def test_a_value_for_the_deselected_option_is_refused_as_if_there_were_no_experiment(told):
    problems = told("experiment=simclr_mnist model/encoder=resnet model.encoder.grid=3")
    assert problems == ["model.encoder.grid: there is no such key; model.encoder has depth"]


def test_a_nested_group_is_dropped_at_its_own_node(settle):
    config, dropped = settle("experiment=simclr_mnist model/encoder=resnet")
    assert config["model"] == {"encoder": {"_target_": "parts.ResNet", "depth": 18}}
    (message,) = dropped
    assert message.startswith("model/encoder=resnet: dropped model.encoder.grid=null, which experiment simclr_mnist ")
    assert message.endswith(" set for model/encoder=conv")


def test_of_several_options_only_the_deselected_one_vanishes(settle):
    config, dropped = settle("experiment=simclr_mnist eval=[knn]")
    assert config["eval"] == {"knn": {"_target_": "parts.Score", "k": 20}}
    who = "which experiment simclr_mnist set for eval=[knn,few_shot]"
    assert dropped == [
        f"eval=[knn]: dropped eval.few_shot.k=1, {who}",
        f"eval=[knn]: dropped eval.few_shot.inner=[1,2], {who}",
    ]
    assert settle("experiment=simclr_mnist eval=[]")[0]["eval"] == {}


def test_an_experiment_upon_another_leaves_neither_ones_values_behind(settle):
    config, dropped = settle("experiment=child optimizer=sgd")
    assert config["optimizer"] == {"_target_": "parts.SGD", "lr": 0.1, "momentum": 0.9}
    (message,) = dropped
    assert message.startswith("optimizer=sgd: dropped optimizer.lr=0.3, which experiment simclr_mnist, child set ")
    assert config["trainer"] == {"_target_": "parts.Trainer", "max_steps": 7, "log_every": 1}


# misspelled


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "experiment=simclr_mnits",
            "no option 'simclr_mnits' in group experiment; did you mean 'simclr_mnist'? "
            "options: child, misspelled, simclr_mnist",
        ),
        ("optimizer=zzz", "no option 'zzz' in group optimizer; options: adam, sgd"),
        ("eval=[knn,fewshot]", "no option 'fewshot' in group eval; did you mean 'few_shot'? options: few_shot, knn"),
        ("optimzer=adam", "optimzer: there is no such group; did you mean 'optimizer=adam'?"),
        ("encoder=resnet", "encoder: there is no such group; did you mean 'model/encoder=resnet'?"),
        ("model=resnet", "model: there is no such group; did you mean 'model/encoder=resnet'?"),
        ("trainer.max_step=3", "trainer.max_step: there is no such key; did you mean 'trainer.max_steps'?"),
        ("lr=0.3", "lr: there is no such group or key; did you mean 'optimizer.lr'?"),
        ("optimizer.zzz=3", "optimizer.zzz: there is no such key; optimizer has lr, momentum"),
        ("+foo=1", "foo: there is no such key"),
        ("+optimizer.foo=1", "optimizer.foo: SGD() has no such parameter; it has lr, momentum"),
        ("+optimizer.lr=1", "+optimizer.lr=1: optimizer.lr is there already; leave the + out"),
        ("seed=abc", "seed: got 'abc' (str), expected int"),
        ("trainer.max_steps=None", "trainer.max_steps: got the string 'None'; null is null in YAML: "),
        ("seed=1,2", "seed=1,2: several values; add -m to run once for each, or write seed=[...] for a list"),
        ("optimizer=3", "optimizer=3: optimizer is a group; choose of adam, sgd, or ~optimizer for none"),
        ("seed", "seed: cannot be read; write key=value, and quote what has special characters"),
        ("seed=[1", "seed=[1: cannot be read"),
        ("~optimizer", "optimizer: it is missing; set optimizer=..."),
        ("experiment=misspelled", "optimizer.weight_decya: SGD() has no such parameter; it has lr, momentum"),
    ],
)
def test_a_mistake_is_answered_with_the_nearest_valid_spelling(told, line, problem):
    problems = told(line)
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_all_mistakes_of_a_line_are_told(told):
    problems = told("trainer.max_step=3 optimzer=adam eval=[kn] seed=[")
    option = "no option 'kn' in group eval; did you mean 'knn'? options"
    assert {problem.partition(":")[0] for problem in problems} == {"seed=[", option, "optimzer", "trainer.max_step"}


def test_a_mistake_makes_no_folder_prints_one_message_and_exits_with_2(monkeypatch, capsys):
    typed = Typed(monkeypatch, "trainer.max_step=3")
    assert (typed.code, typed.jobs, made()) == (2, [], [])
    out, err = capsys.readouterr()
    assert err == "trainer.max_step: there is no such key; did you mean 'trainer.max_steps'?\n"
    assert out == ""


# running


def test_a_run_gets_the_settled_config_and_a_new_folder_each_time(monkeypatch, capsys):
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


def fail(error):
    def work(config, folder):
        raise error

    return work


def test_a_mistake_found_while_wiring_is_told_without_a_traceback(monkeypatch, capsys):
    typed = Typed(monkeypatch, "", fail(ConfigError(["loss: does not fit", "batching: nor this"])))
    assert typed.code == 2
    assert capsys.readouterr().err == "loss: does not fit\nbatching: nor this\n"
    assert "Traceback" in (typed.folders[0] / commandline.FAILURE).read_text()


def test_a_plain_value_error_of_the_house_is_a_mistake_and_of_others_is_not(monkeypatch, capsys):
    assert Typed(monkeypatch, "", lambda config, folder: locate("os.system")).code == 2
    err = capsys.readouterr().err
    assert err.startswith("os.system is not trusted")
    assert err.count("\n") == 1
    assert Typed(monkeypatch, "", lambda config, folder: int("abc")).code == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_keeps_its_traceback(monkeypatch, capsys):
    typed = Typed(monkeypatch, "", fail(ZeroDivisionError("why")))
    err = capsys.readouterr().err
    assert typed.code == 1
    assert err.startswith("Traceback")
    assert err.count("ZeroDivisionError: why") == 1
    assert "in work" in err


def test_an_interrupted_run_exits_with_130(monkeypatch, capsys):
    assert Typed(monkeypatch, "", fail(KeyboardInterrupt())).code == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert Typed(monkeypatch, "", fail(KeyboardInterrupt("stopped after step 3"))).code == 130
    assert capsys.readouterr().err == "stopped after step 3\n"


# sweeps


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
    assert "ZeroDivisionError: why" in (typed.folders[0] / commandline.FAILURE).read_text()
    assert not (typed.folders[1] / commandline.FAILURE).exists()
    assert capsys.readouterr().err.count("Traceback") == 1


def test_every_job_of_a_sweep_is_checked_before_the_first_folder(monkeypatch, capsys):
    typed = Typed(monkeypatch, "-m seed=0,1,abc optimizer=sgd,adam")
    assert (typed.code, typed.jobs, made()) == (2, [], [])
    assert capsys.readouterr().err == "seed: got 'abc' (str), expected int\n"
    assert Typed(monkeypatch, "-m optimizer=sgd,adm").code == 2
    assert "did you mean 'adam'" in capsys.readouterr().err


def test_leftovers_are_dropped_job_by_job(monkeypatch, capsys):
    typed = Typed(monkeypatch, "-m experiment=simclr_mnist optimizer=sgd,adam")
    assert [config["optimizer"]["lr"] for config, _ in typed.jobs] == [0.3, 0.001]
    assert capsys.readouterr().err.count("dropped optimizer.lr=0.3") == 1


def test_a_sweep_file_is_a_sweep_without_a_flag(monkeypatch):
    typed = Typed(monkeypatch, "+sweep=rates")
    assert [config["optimizer"]["lr"] for config, _ in typed.jobs] == [1, 2]


# resume=RUN


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


def test_resume_refuses_what_would_change_the_result_and_shows_it(stopped_run):
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
def test_resume_refuses_what_it_cannot_apply(stopped_run, override, why):
    with pytest.raises(ConfigError) as caught:
        resumed_config(stopped_run, [override], "resume", multirun=False)
    assert why in str(caught.value)


@pytest.mark.parametrize(("folder", "why"), [("nowhere", "does not exist"), (".", "has no config.yaml")])
def test_resume_of_no_run_is_one_clear_message(monkeypatch, capsys, folder, why):
    assert Typed(monkeypatch, f"resume={folder}").code == 2
    err = capsys.readouterr().err
    assert why in err
    assert err.count("\n") == 1
    assert Typed(monkeypatch, f"-m resume={folder}").code == 2


def test_resume_auto_is_passed_on(monkeypatch):
    typed = Typed(monkeypatch, "resume=auto hydra.run.dir=here")
    assert typed.jobs[0][0]["resume"] == "auto"
    assert typed.folders == [Path.cwd() / "here"]


def test_the_traceback_of_an_earlier_attempt_is_gone_after_a_good_one(monkeypatch, stopped_run):
    Typed(monkeypatch, [f"resume={stopped_run}"], fail(ZeroDivisionError()))
    assert (stopped_run / commandline.FAILURE).exists()
    Typed(monkeypatch, [f"resume={stopped_run}"])
    assert not (stopped_run / commandline.FAILURE).exists()


# flags


def test_a_folder_of_ones_own_adds_options(monkeypatch, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 9\noptimizer: {lr: 5}\n")
    typed = Typed(monkeypatch, "--config-dir mine experiment=own optimizer=adam")
    assert typed.jobs[0][0]["seed"] == 9
    assert typed.jobs[0][0]["optimizer"]["lr"] == 0.001
    assert Typed(monkeypatch, "--config-path mine").code == 2


def test_hydras_flags_are_hydras(monkeypatch, capsys):
    assert Typed(monkeypatch, "--cfg job seed=4").jobs == []
    assert "seed: 4" in capsys.readouterr().out


def test_the_help_page_lists_what_the_conf_folder_holds(conf):
    lines = page(conf).splitlines()
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
    assert len(help_page) < 100
    assert max(map(len, help_page)) <= 120
    text = "\n".join(help_page)
    assert all(path.stem in text for path in (root / "conf").glob("*/*.yaml"))


def test_a_full_disk_is_told_in_one_line_that_says_how_to_go_on(monkeypatch, capsys):
    typed = Typed(monkeypatch, "", fail(OSError(errno.ENOSPC, "No space left on device", "run/last.pt")))
    assert typed.code == 1
    err = capsys.readouterr().err
    assert err.startswith("cannot write run/last.pt: No space left on device.")
    assert "resume=RUN" in err
    assert err.count("\n") == 1
