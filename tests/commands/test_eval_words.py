"""The words of ``ssl-eval``: encoders, overrides and suites are told from each other by their form."""

from pathlib import Path

import pytest

from ssl_runner.commands import eval_words
from ssl_runner.errors import ConfigError

OVERRIDES = """dataset=mnist eval=[knn,few_shot] eval.knn.k=5 +eval.x=1 dataset.root=/a/b ~eval.knn
    dataset@dataset.dataset=mnist model/encoder=conv4 datset=mnist"""
ENCODERS = """outputs/simclr/run timm:resnet18 timm:resnet18@/w=1/a.pth raw_pixels ~/runs/a ../a=1 /a/b=1
    outputs/sweep/temperature=0.5,seed=0 runs"""


@pytest.mark.parametrize("word", OVERRIDES.split())
def test_overrides(word):
    assert eval_words.sorted_out([word]) == ([], [word], None)


@pytest.mark.parametrize("word", ENCODERS.split())
def test_encoders(word):
    assert eval_words.sorted_out([word]) == ([word], [], None)


def test_a_folder_that_exists_is_an_encoder_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("seed=0").mkdir()
    assert eval_words.sorted_out(["seed=0", "seed=1"]) == (["seed=0"], ["seed=1"], None)


def test_flags_stand_anywhere_and_unknown_ones_are_refused():
    found = eval_words.read(["--json", "run", "suite=transfer", "--again", "eval=[knn]"])
    assert (found.encoders, found.overrides, found.suite) == (["run"], ["eval=[knn]"], "transfer")
    assert found.json and found.again
    with pytest.raises(ConfigError, match="did you mean '--again'"):
        eval_words.read(["run", "--agin"])


def test_words_of_a_suite_give_way_to_those_that_are_typed():
    assert eval_words.over(["eval=[knn]", "dataset=mnist"], ["eval=[few_shot]"]) == ["dataset=mnist", "eval=[few_shot]"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: [1]", "is not a suite"),
        ("words: []", "is not a suite"),
        ("rows: {a: dataset=mnist}", "is not a suite"),
        ("rows: {a: [dataset=mnist]}\nmore: 1", "is not a suite"),
        ("rows: {", "cannot be read"),
    ],
)
def test_a_file_that_is_no_suite_is_refused(text, message, tmp_path):
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        eval_words.rows_of("mine", tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        eval_words.rows_of("mne", tmp_path)
