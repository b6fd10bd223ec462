"""The Python API: compose a config, train it, load the run; and the notebook that shows this."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_runner
from ssl_runner.errors import ConfigError

ROOT = Path(__file__).parents[1]
SHORT = (
    "trainer.max_epochs=null trainer.max_steps=3 trainer.log_every=1 trainer.progress=false eval=[knn] eval.knn.k=20"
)
TINY = f"{SHORT} model.encoder.width=4 batching.batch_size=32 baselines=[]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return ssl_runner.train(TINY, tmp_path_factory.mktemp("python") / "run")


def test_a_config_equals_the_command_lines_and_may_be_changed(tmp_path):
    config = ssl_runner.compose(["experiment=simclr_digits", *TINY.split()])
    assert config == ssl_runner.compose(f"experiment=simclr_digits {TINY}")
    assert type(config["loss"]) is dict
    config["loss"]["temperature"] = 0.3
    config["trainer"]["max_steps"] = 1
    run = ssl_runner.train(config, tmp_path / "run")
    assert run.config["loss"]["temperature"] == 0.3
    assert run.result["status"] == run.status == "finished"


def test_a_run_has_config_result_curves_encoder_and_algorithm(trained):
    assert trained.config["trainer"]["max_steps"] == 3
    loss = trained.metrics["train/loss"]
    logged = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    assert loss.steps.tolist() == [1, 2, 3]
    assert loss.values.tolist() == [row["train/loss"] for row in logged if "train/loss" in row]
    assert loss.values.dtype == np.float64
    images = torch.rand(2, *trained.encoder.input_shape)
    assert torch.equal(trained.encoder(images), trained.algorithm.eval_encoder()(images))
    again = ssl_runner.load_run(trained.folder)
    assert again.result["metrics"] == trained.result["metrics"]


def test_a_run_can_be_resumed_from_python(trained, tmp_path):
    config = ssl_runner.compose(f"{TINY} trainer.checkpoint_every=1")
    config["scheduler"] = ssl_runner.compose("scheduler=constant")["scheduler"]
    run = ssl_runner.train(config, tmp_path / "run")
    longer = ssl_runner.train(f"resume={run.folder} trainer.max_steps=5")
    assert longer.folder == run.folder
    assert longer.metrics["train/loss"].steps.tolist() == [1, 2, 3, 4, 5]


def test_mistakes_are_raised_with_every_problem_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    with pytest.raises(ConfigError) as caught:
        ssl_runner.train("loss.temprature=1 seed=-1")
    assert any("did you mean 'loss.temperature'" in problem for problem in caught.value.problems)
    config = ssl_runner.compose(TINY)
    config["trainer"]["max_step"] = 3
    with pytest.raises(ConfigError, match="did you mean 'max_steps'"):
        ssl_runner.train(config)
    with pytest.raises(ConfigError, match="is not a folder"):
        ssl_runner.compose(config_dir=tmp_path / "none")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("path", "message"), [("none", "does not exist"), (".", "is not a run folder")])
def test_a_path_that_is_not_a_run_is_refused(path, message, tmp_path):
    with pytest.raises(FileNotFoundError, match=message):
        ssl_runner.load_run(tmp_path / path)


def test_a_path_inside_a_run_is_refused(trained):
    with pytest.raises(ValueError, match="give the run's folder"):
        ssl_runner.load_run(trained.folder / "checkpoints")


def test_the_package_is_imported_without_torch_and_shows_its_names():
    code = "import sys, ssl_runner; print('torch' in sys.modules, set(ssl_runner.__all__) <= set(dir(ssl_runner)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ssl_runner.nothing


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat, which reads the notebook, is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient, which runs the notebook, is not installed")
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path))
    notebook = nbformat.read(ROOT / "docs" / "python.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={}).execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "kNN" in text and "Warning" not in text
    pages = [
        output["data"]["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    ]
    bars = [page for page in pages if "<progress" in page]
    assert len(bars) == 1 and "60/60 steps" in bars[0], "the bar is drawn once, and stands at the end"
    assert any("config.loss.temperature" in page for page in pages), "the table of runs"
    assert list(tmp_path.glob("simclr_digits/*/result.json"))
