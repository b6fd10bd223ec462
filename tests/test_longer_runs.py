"""A run whose end is changed."""

import json

import pytest
import torch
from run_folders import VIEWS, checkpoint, settled

from ssl_runner import train
from ssl_runner.cli.resume import resumed_config
from ssl_runner.errors import ResumeError

CONSTANT = [word for word in VIEWS if not word.startswith("scheduler")] + ["scheduler=constant"]
DECAYING = [*CONSTANT[:-1], "scheduler=step_decay", "scheduler.every=3", "scheduler.factor=0.5"]
TEACHER = ["algorithm=momentum", "algorithm.final_momentum=1.0", "loss=info_nce", "algorithm.queue_size=64"]


def run(folder, words, steps):
    return train.run(settled([*words, f"trainer.max_steps={steps}"]), folder)


def go_on(folder, *words):
    return train.run(resumed_config(folder, [f"resume={folder}", *words], "resume", multirun=False), folder)


@pytest.mark.parametrize("words", [CONSTANT, DECAYING])
def test_a_run_whose_rate_does_not_depend_on_its_end_can_be_extended_exactly(tmp_path, words):
    run(tmp_path / "longer", words, 4)
    after = go_on(tmp_path / "longer", "trainer.max_steps=9")
    assert (after["status"], after["steps"], after["given_another_end_after_steps"]) == ("finished", 9, [4])
    whole = run(tmp_path / "whole", words, 9)
    assert "given_another_end_after_steps" not in whole
    assert after["metrics"] == whole["metrics"]
    first, second = (checkpoint(tmp_path / name)["algorithm"] for name in ("longer", "whole"))
    assert all(torch.equal(first[key], second[key]) for key in second)
    # and a second time
    assert go_on(tmp_path / "longer", "trainer.max_steps=10")["given_another_end_after_steps"] == [4, 9]
    assert json.loads((tmp_path / "longer" / "result.json").read_text())["steps"] == 10


@pytest.mark.parametrize(
    "words", [VIEWS, [*CONSTANT, *TEACHER]]
)  # half a cosine of the rate, of the teacher's momentum
def test_a_run_that_depends_on_its_end_is_refused_with_a_remedy(tmp_path, words):
    run(tmp_path, words, 4)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(
        ResumeError, match=r"the end of .* cannot be changed: .*start a new run with the trainer\.max_steps"
    ):
        go_on(tmp_path, "trainer.max_steps=9")
    assert (tmp_path / "config.yaml").read_text() == before
    assert go_on(tmp_path)["status"] == "finished"


def test_fewer_steps_than_already_done_are_refused(tmp_path):
    run(tmp_path, CONSTANT, 4)
    with pytest.raises(ResumeError, match="has already done 4 steps, but would end after 3; give more"):
        go_on(tmp_path, "trainer.max_steps=3")


def test_other_changes_are_still_refused(tmp_path):
    run(tmp_path, CONSTANT, 4)
    with pytest.raises(ValueError, match=r"optimizer\.lr: .*keeps its own config"):
        go_on(tmp_path, "trainer.max_steps=9", "optimizer.lr=0.5")
