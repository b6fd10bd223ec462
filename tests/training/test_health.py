import re
from math import nan

import pytest
import torch

from ssl_runner.errors import RunStopped
from ssl_runner.evaluation.diagnostics import COLLAPSED, SETTLED
from ssl_runner.training.health import check_finite, collapse


def test_an_embedding_has_collapsed_only_once_settled_and_below_the_threshold():
    assert "the embedding has collapsed by step" in (collapse({"embedding_std": COLLAPSED / 2}, SETTLED) or "")
    assert collapse({"embedding_std": COLLAPSED}, SETTLED) is None
    assert collapse({"embedding_std": COLLAPSED / 2}, SETTLED - 1) is None
    assert collapse({"embedding_std": nan}, SETTLED) is None


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        (0.5, 0.01, r"the teacher's embedding has collapsed by step 20: its std over images is 0\.010 "),
        (0.01, 0.5, r"the student's embedding has collapsed by step 20: its std over images is 0\.010 "),
        (0.02, 0.01, r"the student's embedding and the teacher's embedding have .* their std .* 0\.020 and 0\.010 "),
    ],
)
def test_of_student_and_teacher_the_warning_says_which_has_collapsed(student, teacher, words):
    metrics = {"embedding_std": min(student, teacher), "student_std": student, "teacher_std": teacher}
    assert re.match(words, collapse(metrics, 20) or "")
    assert collapse({"embedding_std": 0.5, "student_std": 0.5, "teacher_std": nan}, 20) is None


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_value_that_is_not_finite_ends_the_run_with_a_message_about_the_last_checkpoint(tmp_path, value):
    check_finite("loss", torch.tensor(1e38), 3, tmp_path)
    with pytest.raises(RunStopped, match=r"the loss is -?(inf|nan) at step 3; .* There was no checkpoint yet"):
        check_finite("loss", torch.tensor(value), 3, tmp_path)
    (tmp_path / "last.pt").touch()
    with pytest.raises(RunStopped, match="The last good checkpoint is in"):
        check_finite("loss", torch.tensor(value), 3, tmp_path)
