"""Runs and folders from strangers: their content is neither executed nor lost."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from run_folders import VIEWS, settled

import ssl_runner
from ssl_runner import train
from ssl_runner.cli import command_line
from ssl_runner.cli.app import App
from ssl_runner.cli.resume import resumed_config
from ssl_runner.errors import ResumeError
from ssl_runner.images.decoding import Decoding, decode

TINY = [
    *(word for word in VIEWS if not word.startswith(("eval", "trainer.max_steps"))),
    "trainer.max_steps=2",
    "eval=[]",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strange") / "run"
    train.run(settled(TINY), folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def touching(path):
    return {"_target_": "subprocess.check_call", "args": ["touch", str(path)]}


NODES = ["algorithm", "loss", "model.encoder", "dataset", "trainer", "augmentation", "optimizer"]


@pytest.mark.parametrize("node", NODES)
def test_a_hostile_target_runs_nothing_however_the_run_is_opened(run, tmp_path, monkeypatch, capsys, node):
    config = yaml.safe_load((run / "config.yaml").read_text())
    place = config
    for key in node.split(".")[:-1]:
        place = place[key]
    place[node.rpartition(".")[2]] = touching(tmp_path / "touched")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for word in ("resume", "reproduce"):
        monkeypatch.setattr(sys, "argv", ["ssl-train", f"{word}={run}"])
        assert command_line.main(App(train.prepare, train.run, train.rehearse)) == 2
        assert "is not trusted" in capsys.readouterr().err
    if node in ("algorithm", "loss", "model.encoder"):  # the parts of an algorithm
        with pytest.raises(ValueError, match="is not trusted"):
            ssl_runner.load_algorithm(run)
    assert not (tmp_path / "touched").exists()


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("key", ["step", "algorithm", "identity"])
def test_a_pickle_in_a_checkpoint_runs_nothing(run, tmp_path, key):
    last, previous = run / "checkpoints" / "last.pt", run / "checkpoints" / "previous.pt"
    state = torch.load(last, weights_only=True)
    torch.save(state | {key: Hostile(tmp_path / "touched")}, last)
    previous.unlink(missing_ok=True)
    (run / "result.json").write_text(json.dumps({"status": "interrupted"}))
    with pytest.raises(ResumeError, match="is damaged"):
        train.run(resumed_config(run, [f"resume={run}"], "resume", multirun=False), run)
    assert not (tmp_path / "touched").exists()


def test_a_run_behind_links_is_resumed_and_loaded(run, tmp_path):
    (run / "checkpoints").rename(tmp_path / "store")
    (run / "checkpoints").symlink_to(tmp_path / "store")
    (tmp_path / "link").symlink_to(run)
    linked = tmp_path / "link"
    assert (
        train.run(resumed_config(linked, [f"resume={linked}"], "resume", multirun=False), linked)["status"]
        == "finished"
    )
    assert ssl_runner.load_encoder(linked).out_features > 0


@pytest.mark.parametrize("name", ["a.bmp", "a.webp", "a.gif", "a.tga", "a.tif", "a.PNG", "a.avif", "a.jp2"])
def test_lossless_formats_return_their_pixels(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255  # few colors, for a palette
    keys = {"a.webp": {"lossless": True}, "a.avif": {"quality": 100, "subsampling": "4:4:4"}}.get(name, {})
    Image.fromarray(pixels).save(tmp_path / name, **keys)
    found = decode(tmp_path / name, Decoding(None, 3)).transpose(1, 2, 0)
    assert np.abs(found.astype(int) - pixels).max() <= (40 if name == "a.avif" else 0)


def test_single_and_empty_arguments_of_the_python_api(run, tmp_path):
    encoder = ssl_runner.load_encoder(run)
    empty = encoder.read([])
    assert empty.shape == (0, *encoder.input_shape)
    assert encoder(empty).shape == (0, encoder.out_features)
    for path in ("a.png", tmp_path / "a.png"):
        with pytest.raises(ValueError, match=r"got the path .*expected a list of files; give"):
            encoder.read(path)
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\); for a single one, give image\[None\]"):
        encoder(torch.zeros(encoder.input_shape))
    for part in ("checkpoints/last.pt", "checkpoints"):
        for load in (ssl_runner.load_encoder, ssl_runner.load_algorithm):
            with pytest.raises(ValueError, match=f"(lies in|is inside) a run; give the run's folder, {run}"):
                load(run / part)
