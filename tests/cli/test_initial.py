"""The word init=WEIGHTS: how it is read, what it names, and its fingerprint in the config's hash."""

import shutil
import sys

import pytest
import torch
from run_folders import TINY
from safetensors.torch import load_file

import ssl_runner
from ssl_runner import train
from ssl_runner.cli import command_line
from ssl_runner.cli.app import App
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.initial import with_weights
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.config.hashing import config_hash
from ssl_runner.errors import ConfigError
from ssl_runner.models import initial_weights

WORDS = ["experiment=simclr_digits", *TINY]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, in a folder whose name is hard to type."""
    return ssl_runner.train(WORDS, tmp_path_factory.mktemp("runs") / "lr=0.1, (a run)").folder


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("init=outputs/simclr/run", "init.weights=outputs/simclr/run"),
        ("init=timm:resnet18.a1_in1k@weights/my.pth", "init.weights=timm:resnet18.a1_in1k@weights/my.pth"),
        ("init=run", "init.weights='run'"),
        ("init=123", "init.weights='123'"),
        ("init=a/lr=0.1/it's", r"init.weights='a/lr=0.1/it\'s'"),
        ("init=a/x,b/lr=1", "init.weights=a/x,'b/lr=1'"),
        ("init='a, b'", "init.weights='a, b'"),
        ("init=choice(a,b)", "init.weights=choice(a,b)"),
        ("init=outputs/seed=${seed}", "init.weights='outputs/seed=${seed}'"),
        ("init=${oc.env:RUN,a/b}", "init.weights=${oc.env:RUN,a/b}"),
        ("init=null", "init.weights=null"),
        ("init=a/b,null", "init.weights=a/b,null"),
        ("init={freeze: true}", "init={freeze: true}"),
        ("init.freeze=true", "init.freeze=true"),
        ("initial=1", "initial=1"),
    ],
)
def test_the_word_is_written_as_hydra_reads_it(typed, read):
    assert with_weights([typed]) == [read]


@pytest.mark.parametrize("path", ["it's", "a\\", "a\\'b", "x y", "(z)", "null", "é", "a=b", "[c]d", "1e3"])
def test_hydra_reads_back_every_path(path):
    (word,) = with_weights([f"init=folder/{path}"])
    (parsed,) = Composer(conf_folder()).parse([word])
    assert (parsed.key_or_group, parsed.value()) == ("init.weights", f"folder/{path}")


def test_a_word_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="init= names no weights; give the folder of a finished run"):
        with_weights(["init="])


def test_the_path_becomes_absolute_and_the_hash_has_the_content_and_not_the_path(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.parent)
    word = f"init='{run.name}'"
    config = ssl_runner.compose([*WORDS, word])
    assert config["init"]["weights"] == str(run)
    plain = ssl_runner.compose(WORDS)
    copied = tmp_path / "elsewhere.safetensors"
    shutil.copy(run / "encoder.safetensors", copied)
    torch.save(load_file(copied), tmp_path / "elsewhere.pt")
    same = [str(copied), str(tmp_path / "elsewhere.pt"), str(run / "checkpoints" / "last.pt")]
    hashes = {config_hash(ssl_runner.compose([*WORDS, f"init='{path}'"])) for path in same}
    assert hashes == {config_hash(config)}
    assert config_hash(config) != config_hash(plain)
    assert config_hash(ssl_runner.compose([*WORDS, word, "init.freeze=true"])) != config_hash(config)
    changed = load_file(copied)
    changed["mean"] += 1e-3
    torch.save(changed, tmp_path / "changed.pt")
    assert config_hash(ssl_runner.compose([*WORDS, f"init={tmp_path / 'changed.pt'}"])) != config_hash(config)


def test_configs_of_earlier_versions_keep_their_hash():
    config = ssl_runner.compose(WORDS)
    assert config_hash(config) == config_hash({key: node for key, node in config.items() if key != "init"})


def test_published_weights_of_timm_are_known_by_their_name():
    words = [*WORDS, "model/encoder=timm", "model.encoder.name=test_resnet", "init=timm:test_resnet"]
    config = ssl_runner.compose([word for word in words if word != "model.encoder.width=4"])
    assert config["init"]["weights"] == config["init"]["fingerprint"] == "timm:test_resnet"


REFUSED = {
    "nowhere/at/all": "init: nowhere/at/all does not exist; give the folder of a finished run",
    "{parent}/lr=0.1, (a rum)": "does not exist; did you mean {run}?",
    "{run}/checkpoint/last.pt": "does not exist; did you mean {run}/checkpoints?",
    "{run}/config.yaml": "is not a file of weights (.safetensors, .pt, .pth, .bin, .ckpt)",
    "{run}/checkpoints": "is inside a run; give the run's folder, {run}",
    "{parent}": "has no config.yaml, so it is not a run folder; it holds runs, the newest lr=0.1, (a run); give {run}",
    "tim:resnet18": "tim:resnet18 does not exist; did you mean 'timm'?",
    "raw_pixels": "raw_pixels does not exist",
    "timm:resnet18@nowhere.pth": "nowhere.pth does not exist; give a file of weights",
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_is_no_weights_is_refused_with_what_to_give(word, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"run": run, "parent": run.parent}
    with pytest.raises(ConfigError) as refused:
        ssl_runner.compose([*WORDS, f"init='{word.format(**places)}'"])
    (problem,) = refused.value.problems
    assert problem.startswith("init: ")
    assert REFUSED[word].format(**places) in problem


def test_a_run_that_is_not_finished_is_refused_with_the_way_on_and_its_checkpoint_is_accepted(run, tmp_path):
    stopped = tmp_path / "run"
    shutil.copytree(run, stopped)
    (stopped / "encoder.safetensors").unlink()
    with pytest.raises(
        ConfigError, match=r"has no encoder\.safetensors, because that run is not finished; resume with"
    ):
        ssl_runner.compose([*WORDS, f"init={stopped}"])
    with pytest.raises(ConfigError) as refused:
        ssl_runner.compose([*WORDS, f"init={stopped}"])
    remedy = str(refused.value).rpartition("init=")[2]
    assert ssl_runner.compose([*WORDS, f"init={remedy}"])["init"]["weights"] == str(stopped / "checkpoints" / "last.pt")


def test_mistakes_beside_it_are_reported_too(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["init=nowhere/run", "trainer.log_evry=1"]
    monkeypatch.setattr(sys, "argv", ["ssl-train", *WORDS, *words])
    assert command_line.main(App(train.prepare, train.run, train.rehearse)) == 2
    said = capsys.readouterr().err
    for sentence in ("did you mean 'trainer.log_every'", "init: nowhere/run does not"):
        assert sentence in said


def test_a_sweep_over_weights_reads_each_file_once_and_makes_jobs_of_different_content(run, tmp_path, monkeypatch):
    from ssl_runner.cli import initial, validate

    other = load_file(run / "encoder.safetensors")
    other["std"] *= 2
    torch.save(other, tmp_path / "other.pt")
    initial._of_file.cache_clear()
    reads, read = [], initial_weights.read_weights
    monkeypatch.setattr(initial_weights, "read_weights", lambda *given: reads.append(given[0]) or read(*given))
    words = [*WORDS, f"init.weights='{run / 'encoder.safetensors'}','{tmp_path / 'other.pt'}'", "seed=0,1"]
    configs, jobs, _ = validate._settle_all(Composer(conf_folder()), True, words)
    assert jobs is not None
    assert len({config_hash(config) for config in configs}) == 4
    assert len(reads) == 2


def test_a_misspelled_key_of_it_gets_the_nearest_one():
    with pytest.raises(ConfigError, match=r"init\.freez: there is no such key; did you mean 'init\.freeze'"):
        ssl_runner.compose([*WORDS, "init.freez=true"])
    with pytest.raises(ConfigError, match=r"init\.freeze: got 'maybe' \(str\), expected bool"):
        ssl_runner.compose([*WORDS, "init.freeze=maybe"])
