import functools

import pytest
import torch

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.data.batches import Episodes, Views
from ssl_runner.runs.tracking import Silence
from ssl_runner.training.compiling import Compiled
from ssl_runner.training.loop import Loop
from ssl_runner.training.trainer import LONG
from ssl_runner.wiring import wire

TINY = ["model.encoder.width=4", "batching.batch_size=16", "eval=[]", "trainer.diagnostics_every=null"]


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without its C++ and Triton code, whose making takes a minute: traced, and run as traced."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", functools.partial(compile, backend="aot_eager"))


def trained(compile: str, folder) -> tuple[dict[str, torch.Tensor], list[str]]:
    words = [
        *TINY,
        "trainer.max_epochs=null",
        "trainer.max_steps=3",
        "trainer.device=cpu",
        f"trainer.compile={compile}",
    ]
    run = wire.wire(validate.checked_config(Composer(conf_folder()), words)[0])
    told: list[str] = []

    class Told(Silence):
        def tell(self, subject: str, text: str) -> None:
            told.append(text)

    folder.mkdir()
    Loop(run, folder, Told(), None).run_to_the_end()
    return run.algorithm.state_dict(), told


def test_a_compiled_run_equals_one_that_is_not_and_tells_what_was_compiled(traced, tmp_path):
    compiled, told = trained("true", tmp_path / "compiled")
    plain, nothing = trained("false", tmp_path / "plain")
    assert [text.rpartition(" in ")[0] for text in told] == ["compiled an augmentation", "compiled an encoder"]
    assert nothing == [] and compiled.keys() == plain.keys()
    for name, value in compiled.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-5)


def test_a_function_that_cannot_be_compiled_stays_as_it_is(monkeypatch):
    def refusing(function, **_):
        def program(*arguments):
            raise RuntimeError("no C compiler\nand more")

        return program

    monkeypatch.setattr(torch, "compile", refusing)
    told: list[str] = []
    double = Compiled(lambda value: 2 * value, "a function", told.append)
    assert [double(3), double(4)] == [6, 8]
    assert told == ["a function cannot be compiled and stays as it is: no C compiler"]


@pytest.mark.parametrize(
    ("compile", "records", "batch_type", "steps", "expected"),
    [
        ("auto", True, Views, LONG, True),
        ("auto", True, Views, LONG - 1, False),
        ("auto", True, Episodes, LONG, False),
        ("auto", False, Views, LONG, False),
        (True, False, Episodes, 1, True),
        (False, True, Views, LONG, False),
    ],
)
def test_auto_compiles_long_runs_over_views_where_steps_are_recorded(
    compile, records, batch_type, steps, expected, monkeypatch
):
    from ssl_runner.training.trainer import Trainer

    config, _ = validate.checked_config(Composer(conf_folder()), ["trainer.device=cpu"])
    arguments = {key: value for key, value in config["trainer"].items() if key != "_target_"}
    trainer = Trainer(**(arguments | {"compile": compile}))
    monkeypatch.setattr(Trainer, "records", records)
    assert trainer.compiles(batch_type, steps) is expected


def test_on_a_cpu_nothing_is_recorded():
    config, _ = validate.checked_config(Composer(conf_folder()), ["trainer.device=cpu"])
    from ssl_runner.config.building import build

    assert not build(config["trainer"], "trainer").records
