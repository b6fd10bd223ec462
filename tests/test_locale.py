"""Names in every script, in a locale that knows ASCII alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "CUDA_VISIBLE_DEVICES": ""}
SHORT = [
    "dataset=image_folder",
    "dataset.size=8",
    "augmentation=simclr",
    "model.encoder.width=4",
    "eval=[]",
    "baselines=[]",
]
SHORT += ["trainer.max_epochs=null", "trainer.max_steps=2", "batching.batch_size=4", "trainer.panel_every=null"]
CLASSES = ["кошка", "猫", "plain", b"caf\xe9".decode("utf-8", "surrogateescape")]


@pytest.fixture
def root(tmp_path):
    random = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "ряд" / name).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "ряд" / name / f"{number}é.png")
    return tmp_path / "ряд"


def ssl_train(folder, *words):
    command = [sys.executable, "-m", "ssl_runner.train", *words]
    done = subprocess.run(command, cwd=folder, env=os.environ | ASCII, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode("ascii")  # the console can show nothing else


def test_a_run_has_its_names_in_utf8_and_the_console_shows_what_it_can(root, tmp_path):
    code, said = ssl_train(tmp_path, *SHORT, f"dataset.root='{root}'", "name='имя'", "hydra.run.dir='вывод/имя'")
    assert code == 0, said
    run = tmp_path / "вывод" / "имя"
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert (result["status"], result["dataset"]["name"]) == ("finished", "ряд")
    names = run / "projector" / "classes.tsv"
    shown = set(names.read_text(encoding="utf-8").split())
    assert shown <= {"кошка", "猫", "plain", r"caf\xe9"}
    assert r"caf\xe9" in said
    assert r"\u043a\u043e\u0448\u043a\u0430" in said
    assert ssl_train(tmp_path, f"resume={run}")[0] == 0
    code, said = ssl_train(tmp_path, f"reproduce={run}")
    assert code == 0, said
    assert "identical to the last bit" in said
    assert len(list((tmp_path / "outputs" / "имя").iterdir())) == 1


def test_a_run_folder_that_is_no_utf8_is_refused_in_one_sentence(root, tmp_path):
    folder = b"hydra.run.dir='caf\xe9'".decode("utf-8", "surrogateescape")
    code, said = ssl_train(tmp_path, *SHORT, f"dataset.root='{root}'", folder)
    assert code == 2
    assert rf"hydra.run.dir: {tmp_path}/caf\xe9 is no valid UTF-8" in said
    assert "Traceback" not in said
