"""A small program with its own conf folder, and the outcome of command lines for it."""

import sys
from pathlib import Path

import pytest

from ssl_runner.cli import command_line, search_path, validate
from ssl_runner.cli.app import App
from ssl_runner.cli.compose import Composer
from ssl_runner.config import schema
from ssl_runner.config.signatures import Node

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


@pytest.fixture(scope="session")
def small_conf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    (folder / "parts.py").write_text(PARTS)
    for name, text in CONF.items():
        path = folder / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return folder / "conf"


@pytest.fixture
def small_program(small_conf, tmp_path, monkeypatch):
    """A small program in an empty working folder."""
    monkeypatch.syspath_prepend(small_conf.parent)
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "parts")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(search_path, "conf_folder", lambda: small_conf)
    monkeypatch.setattr(schema, "ROOT_KEYS", ROOT)
    monkeypatch.setattr(schema, "SUPPLIED", {})
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("parts", None)


@pytest.fixture
def settle(small_conf, small_program):
    return lambda line: validate.checked_config(Composer(small_conf), line.split())


class Typed:
    """The outcome of a command line: exit code, and the config and folder of every job."""

    def __init__(self, monkeypatch, line, work=lambda config, folder: None, prepare=lambda config: "wired"):
        self.jobs = []
        self.rehearsed = []

        def run(config, folder, prepared):
            self.jobs.append((config, folder))
            return work(config, folder)

        monkeypatch.setattr(sys, "argv", ["ssl-train", *(line if isinstance(line, list) else line.split())])
        self.code = command_line.main(App(prepare, run, self.rehearsed.append))

    @property
    def folders(self):
        return [folder for _, folder in self.jobs]


def made():
    return sorted(path.relative_to(Path.cwd()).as_posix() for path in Path.cwd().rglob("*"))


def fail(error):
    """Work that fails."""

    def work(config, folder):
        raise error

    return work
