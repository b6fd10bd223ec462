import gzip
import json
from types import SimpleNamespace

import pytest
import torch

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.runs.tracking import Silence
from ssl_runner.runtime import spans
from ssl_runner.runtime.spans import span
from ssl_runner.training import profiling
from ssl_runner.training.loop import Loop
from ssl_runner.wiring import wire

TINY = ["model.encoder.width=4", "batching.batch_size=16", "eval=[]", "trainer.diagnostics_every=null"]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """The folder of a profiled run and what was told."""
    folder, told = tmp_path_factory.mktemp("run"), []
    steps = f"trainer.max_steps={profiling.WARM + profiling.STEPS + 1}"
    words = [*TINY, "trainer.max_epochs=null", steps, "trainer.profile=true", "trainer.device=cpu"]
    run = wire.wire(validate.checked_config(Composer(conf_folder()), words)[0])

    class Told(Silence):
        def tell(self, subject: str, text: str) -> None:
            told.append((subject, text))

    Loop(run, folder, Told(), None).run_to_the_end()
    return folder / profiling.FOLDER, told


def test_the_trace_has_each_part_of_every_profiled_step(profiled):
    folder, _ = profiled
    with gzip.open(folder / "step.pt.trace.json.gz", "rt") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    for part in ("forward", "loss", "backward", "optimizer"):
        assert names.count(part) == profiling.STEPS
    assert names.count("data") == 2 * profiling.STEPS  # a batch, and the one that is made ahead


def test_the_shares_are_told_and_written_with_the_most_expensive_operations(profiled):
    folder, told = profiled
    summary = (folder / "summary.txt").read_text()
    [(subject, text)] = told
    assert subject == "profile" and text.partition(";")[0] == summary.partition(";")[0]
    shares = {
        name: int(word.strip("%,;"))
        for name, word in zip(*[iter(text.split("each; ")[1].split()[:10])] * 2, strict=True)
    }
    assert set(shares) == {"data", "forward", "loss", "backward", "optimizer"} and 30 < sum(shares.values()) <= 101
    table = summary.partition("\n\n")[2]
    listed = [line.split()[0] for line in table.splitlines() if line.rstrip().endswith(tuple("0123456789"))]
    assert len(listed) == profiling.LISTED and not set(listed) & set(profiling.PARTS)


def test_a_part_has_the_share_of_its_time_and_the_forward_pass_that_without_the_loss(tmp_path):
    trainer = SimpleNamespace(device=torch.device("cpu"))
    profile = profiling.Profile(tmp_path, trainer, lambda _: None)  # type: ignore[arg-type]
    microseconds = {"data": 250_000, "forward": 500_000, "loss": 100_000, "aten::mm": 600_000}
    events = [SimpleNamespace(key=key, cpu_time_total=spent) for key, spent in microseconds.items()]
    assert profile._shares(events, 1.0) == "data 25%, forward 40%, loss 10%"


def test_a_session_that_is_too_short_says_so(tmp_path):
    told: list[str] = []
    profile = profiling.Profile(tmp_path, SimpleNamespace(device=torch.device("cpu")), told.append)  # type: ignore[arg-type]
    for step in range(profiling.WARM):
        profile.advance(step)
    profile.end()
    assert len(told) == 1 and told[0].startswith("none: it looks at 10 steps after the first 20")
    assert not (tmp_path / profiling.FOLDER).exists()


def test_without_a_profile_a_span_records_nothing():
    with torch.profiler.profile() as profiler, span("data"):
        torch.ones(2).sum()
    assert "data" not in {event.key for event in profiler.key_averages()}
    with torch.profiler.profile() as profiler, spans.profiled(), span("data"):
        torch.ones(2).sum()
    assert "data" in {event.key for event in profiler.key_averages()}
