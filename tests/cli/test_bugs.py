"""A bug keeps its traceback; a mistake of the user gets one sentence."""

import functools

import children
import deeds
import pytest

BUGGY = """
from ssl_runner.losses.nt_xent import NTXent

class Built(NTXent):
    def __init__(self, temperature):
        super().__init__(temperature)
        list(zip([1], [], strict=True))

class Called(NTXent):
    def forward(self, embeddings, context):
        return int("x")

class Refusing(NTXent):
    def __init__(self, temperature):
        from ssl_runner.errors import InvalidValue
        raise InvalidValue(f"temperature={temperature}; give a number above 0")
"""


@pytest.mark.parametrize(("name", "found"), [("Built", "zip() argument 2 is shorter"), ("Called", "literal for int()")])
def test_a_bug_in_a_loss_keeps_its_traceback_and_a_refused_value_has_none(name, found, tmp_path, monkeypatch):
    (tmp_path / "buggy.py").write_text(BUGGY)
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "buggy")
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    on_the_path = functools.partial(deeds.modules_lie_in, tmp_path)
    bug, mistake = (
        children.command(tmp_path / which, [f"loss._target_=buggy.{which}"], on_the_path)
        for which in (name, "Refusing")
    )
    assert (bug.code, mistake.code) == (1, 2)
    assert bug.err.startswith("Traceback")
    assert found in bug.err.splitlines()[-1]
    assert mistake.err == "loss: temperature=0.5; give a number above 0\n"
    assert not (tmp_path / "outputs").exists()
