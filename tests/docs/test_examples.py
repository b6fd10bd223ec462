"""What the documentation tells people to type: Python is executed, command lines are composed and checked."""

import re
import shlex

import numpy as np
import pytest
from documentation import PAGES, ROOT, blocks, name
from PIL import Image
from run_folders import VIEWS, settled

from ssl_runner import train
from ssl_runner.cli import option_help, validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.initial import with_weights
from ssl_runner.cli.jobs import jobs
from ssl_runner.cli.search_path import conf_folder

# served before composition, or by something else than ssl-train; each has tests of its own
OTHERWISE = re.compile(r"resume=|reproduce=|--config-dir|--cfg|install=|--version|\.\.\.|torchrun")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documented") / "run"
    words = [word for word in VIEWS if not word.startswith(("eval", "trainer.max_steps"))]
    train.run(settled([*words, "trainer.max_steps=2", "eval=[]"]), folder)
    return folder


@pytest.fixture
def names(run, tmp_path, monkeypatch):
    """What the examples take for granted: RUN, files, and the folder my/classes."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 16, 16), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "my" / "classes" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return {"RUN": run, "files": sorted(tmp_path.rglob("*.png"))}


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "python")], ids=name)
def test_python_runs(path, names):
    for block in blocks(path, "python"):
        exec(compile(block, name(path), "exec"), names)


def commands() -> list[str]:
    pages = [path for path in PAGES if "plugin_template" not in path.parts]  # whose tests are its own
    lines = [line for path in pages for block in blocks(path, "bash") for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r"\s#|&&", line)]
    return sorted({part for part in parts if part.startswith("ssl-train")})


@pytest.mark.parametrize("command", [line for line in commands() if not OTHERWISE.search(line)])
def test_a_command_line_is_valid(command, run):
    _, *words = shlex.split(re.sub(r"(?<=init=)[^\s']+", str(run), command))
    composer = Composer(conf_folder())
    if "--help" in words:
        words.remove("--help")
        assert not words or option_help.page([conf_folder()], words)
        return
    overrides = with_weights([word for word in words if word != "-m"])
    for job in jobs(composer, overrides, "-m" in words) or [overrides]:
        assert validate.checked_config(composer, job)[0]["name"]


def test_commands_are_found():
    assert "ssl-train experiment=maml_omniglot algorithm.second_order=false" in commands()
    assert len(commands()) > 20


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
