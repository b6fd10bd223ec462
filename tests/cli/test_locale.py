"""Names in every script, in a locale that supports only ASCII."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ssl_runner.errors import ConfigError
from ssl_runner.runs import run_folder

ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "COLUMNS": "20"}
ASCII |= {"CUDA_VISIBLE_DEVICES": "", "SSL_RUNNER_OUTPUTS": "outputs"}
SHORT = [
    "dataset=image_folder",
    "dataset.size=8",
    "augmentation=simclr",
    "model.encoder.width=4",
    "eval=[]",
    "baselines=[]",
]
SHORT += ["trainer.max_epochs=null", "trainer.max_steps=2", "batching.batch_size=4", "trainer.diagnostics_every=null"]
LATIN = b"caf\xe9".decode("utf-8", "surrogateescape")
CLASSES = ["кошка", "猫", "plain", LATIN, "🦊 fox", "two\nlines", "\x1b[31mred", "a[b]c", "it's", " spaces "]


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
    environment = {key: value for key, value in os.environ.items() if key != "HOME"} | ASCII
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode("ascii")  # the console can show nothing else


def test_a_run_has_its_names_in_utf8_and_a_narrow_console_escapes_what_it_lacks(root, tmp_path):
    words = [*SHORT, "dataset.validation=10", "dataset.test=10", f"dataset.root='{root}'"]
    code, said = ssl_train(tmp_path, *words, "name='имя'", "hydra.run.dir='вывод/имя'")
    assert code == 0, said
    run = tmp_path / "вывод" / "имя"
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert (result["status"], result["dataset"]["name"]) == ("finished", "ряд")
    names = run / "projector" / "classes.tsv"
    assert {"кошка", "猫", "plain", r"caf\xe9", r"two\nlines"} <= set(names.read_text(encoding="utf-8").split("\n"))
    assert r"( spaces , \x1b[31mred, a[b]c, ...)" in said
    assert "\x1b[31mred" not in said
    assert r"\u0440\u044f\u0434" in said
    assert "Traceback" not in said
    code, said = ssl_train(tmp_path, f"reproduce={run}")
    assert code == 0, said
    assert "identical to the last bit" in said
    assert len(list((tmp_path / "outputs" / "имя").iterdir())) == 1


def test_a_run_folder_that_is_not_utf8_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir: .*/caf\\xe9 is not valid UTF-8; choose a folder"):
        run_folder.refuse_name(tmp_path / LATIN)
    run_folder.refuse_name(tmp_path / "кошка")
