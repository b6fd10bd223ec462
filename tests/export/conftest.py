"""Encoders to export: a finished run of conv4, and others in files of their own."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from run_folders import VIEWS, settled

from ssl_runner import train
from ssl_runner.commands import embed as embed_command
from ssl_runner.commands import export as export_command
from ssl_runner.data.sources.digits import pixels_and_labels
from ssl_runner.models.saving import FILE, bare_encoder, save_encoder

MODELS = "ssl_runner.models"
RESNET = {"_target_": f"{MODELS}.resnet.ResNet", "_partial_": True, "depth": 18}
VIT = {"_target_": f"{MODELS}.vit.ViT", "_partial_": True, "size": "tiny", "patch_size": 8}
PARTS = {"positions": "sincos", "registers": 2, "drop_path": 0.1}
TIMM: dict[str, Any] = {
    "_target_": f"{MODELS}.timm_encoder.Timm",
    "_partial_": True,
    "name": "test_vit",
    "pretrained": False,
    "arguments": {"patch_size": 8},
}
ENCODERS = {
    "resnet": (RESNET, (3, 16, 16)),
    "large_resnet": (RESNET, (1, 80, 80)),
    "vit": (VIT, (1, 16, 16)),
    "vit_mean": (VIT | PARTS | {"features": "mean"}, (1, 16, 16)),
    "vit_layers": (VIT | PARTS | {"features": "mean", "layers": 2}, (1, 16, 16)),
    "vit_both": (VIT | {"features": "cls_mean"}, (1, 16, 16)),
    "timm": (TIMM, (3, 32, 32)),
}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A finished run of conv4 on gray digits of 16 pixels."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    words = [word for word in VIEWS if not word.startswith(("eval", "trainer.max_steps"))]
    train.run(settled([*words, "trainer.max_steps=2", "eval=[knn]"]), folder)
    return folder


@pytest.fixture(scope="session")
def encoder_file(run, tmp_path_factory) -> Callable[[str], Path]:
    """The file of an encoder of `ENCODERS`, or the run for ``conv4``."""
    made: dict[str, Path] = {"conv4": run}

    def file(name: str) -> Path:
        if name not in made:
            node, shape = ENCODERS[name]
            folder = tmp_path_factory.mktemp(name)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                encoder = bare_encoder(node, shape)
                encoder.mean.uniform_(0.2, 0.4)
                encoder.std.uniform_(0.2, 0.4)
                for part in encoder.modules():  # as after training: statistics of no layer are 0 and 1
                    if isinstance(part, torch.nn.BatchNorm2d):
                        assert part.running_mean is not None and part.running_var is not None
                        part.running_mean.normal_()
                        part.running_var.uniform_(0.5, 2)
            save_encoder(encoder, node, None, None, folder, {})
            made[name] = folder / FILE
        return made[name]

    return file


@pytest.fixture
def ssl_export(monkeypatch, capsys) -> Callable[..., Ended]:
    """Runs ``ssl-export WORDS``."""
    return typed(export_command.main, monkeypatch, capsys)


@pytest.fixture
def ssl_embed(monkeypatch, capsys) -> Callable[..., Ended]:
    """Runs ``ssl-embed WORDS``."""
    return typed(embed_command.main, monkeypatch, capsys)


def typed(main: Callable[[], int], monkeypatch, capsys) -> Callable[..., Ended]:
    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        capsys.readouterr()
        return Ended(main(), *capsys.readouterr())

    return run


@pytest.fixture
def photos(tmp_path) -> Path:
    """30 images of digits, larger than the encoders take and not square, in a folder for each class."""
    folder = tmp_path / "photos"
    pixels, labels = pixels_and_labels()
    for number in range(30):
        path = folder / f"digit {labels[number]}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colors = np.stack([pixels[number, 0], pixels[number, 0] // 2, pixels[number + 1, 0]], axis=-1)
        Image.fromarray(colors).resize((31, 24)).save(path)
    return folder
