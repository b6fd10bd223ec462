from math import nan

import pytest
import torch

from ssl_runner.errors import RunStopped
from ssl_runner.evaluation.diagnostics import COLLAPSED, SETTLED
from ssl_runner.training.health import check_finite, collapse


def test_an_embedding_has_collapsed_only_once_settled_and_below_the_threshold():
    assert "collapsed by step" in (collapse(COLLAPSED / 2, SETTLED) or "")
    assert collapse(COLLAPSED, SETTLED) is None
    assert collapse(COLLAPSED / 2, SETTLED - 1) is None
    assert collapse(nan, SETTLED) is None


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_value_that_is_not_finite_ends_the_run_with_a_message_about_the_last_checkpoint(tmp_path, value):
    check_finite("loss", torch.tensor(1e38), 3, tmp_path)
    with pytest.raises(RunStopped, match=r"the loss is -?(inf|nan) at step 3; .* There was no checkpoint yet"):
        check_finite("loss", torch.tensor(value), 3, tmp_path)
    (tmp_path / "last.pt").touch()
    with pytest.raises(RunStopped, match="The last good checkpoint is in"):
        check_finite("loss", torch.tensor(value), 3, tmp_path)
