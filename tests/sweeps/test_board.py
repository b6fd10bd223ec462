"""What a sweep adds to TensorBoard, as TensorBoard's own plugins read it from the folder."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.get_experiment import Handler as Experiment
from tensorboard.plugins.hparams.list_session_groups import Handler as SessionGroups
from tensorboard.plugins.scalar.scalars_plugin import ScalarsPlugin

from ssl_runner.report.hparams import log_final_metrics, log_hparams
from ssl_runner.runs.events import final_writer, resumed_writer
from ssl_runner.sweeps import board
from ssl_runner.sweeps.manifest import Manifest
from ssl_runner.sweeps.sweep import Sweep, columns_of

NT_XENT = {"_target_": "ssl_runner.losses.nt_xent.NTXent", "temperature": 0.5}
HARD = {"_target_": "ssl_runner.losses.hard_negative.HardNegative", "temperature": 0.5, "beta": 1.0}
METRICS = {"knn/top1": 0.5, "few_shot/5w1s/top1": 0.25, "few_shot/5w1s/ci95": 0.01, "untrained/knn/top1": 0.125}


def planned(folder: Path, losses: dict[str, dict], seeds=(0, 1, 2), outputs: Path | None = None) -> Sweep:
    """A sweep of losses, by the word that chooses each, and seeds; none of its jobs has run."""
    pairs = [(word, loss, seed) for word, loss in losses.items() for seed in seeds]
    configs = [{"loss": loss, "optimizer": {"lr": 0.1}, "name": "run", "seed": seed} for _, loss, seed in pairs]
    words = [[word, f"seed={seed}"] for word, _, seed in pairs]
    return Sweep(folder, Manifest.of("ssl-train -m", None, words, configs, [None] * len(configs)), outputs)


def play(sweep: Sweep, number: int, failed: bool = False) -> None:
    """Leave what a job leaves: its events, its log and its result."""
    sweep.write_job(number)
    job, folder = sweep.jobs[number], sweep.folder_of(number)
    with resumed_writer(folder, 0) as writer, (folder / "metrics.jsonl").open("w") as file:
        log_hparams(writer, job.config, columns_of(folder))
        for step in (10, 20):
            row = {"train/loss": number + step / 10, "train/lr": 0.1}
            for tag, value in row.items():
                writer.add_scalar(tag, value, step)
            file.write(json.dumps({"step": step, **row}) + "\n")
    if not failed:
        with final_writer(folder) as writer:
            log_final_metrics(writer, METRICS, 20)
    status = "failed" if failed else "finished"
    result = {"status": status, "config_hash": job.config_hash, "metrics": {} if failed else METRICS}
    (folder / "result.json").write_text(json.dumps(result))
    sweep.look(number, int(failed))


def temperatures(*values: float) -> dict[str, dict]:
    return {f"loss.temperature={value}": NT_XENT | {"temperature": value} for value in values}


def complete(folder: Path, losses: dict[str, dict], seeds=(0, 1, 2), failing=()) -> Sweep:
    sweep = planned(folder, losses, seeds)
    for number in range(len(sweep.jobs)):
        play(sweep, number, number in failing)
    board.renew(sweep)
    return sweep


class Shown:
    """What TensorBoard reads from a folder."""

    def __init__(self, folder: Path) -> None:
        found = EventMultiplexer().AddRunsFromDirectory(str(folder))
        found.Reload()
        provider = MultiplexerDataProvider(found, str(folder))
        plugins: dict[str, Any] = {}
        context = TBContext(data_provider=provider, logdir=str(folder), plugin_name_to_instance=plugins)
        plugins["scalars"] = ScalarsPlugin(context)
        self.asked, self.table, self.custom = RequestContext(), Context(context), CustomScalarsPlugin(context)
        self.tags = {run: list(tags) for run, tags in self.table.scalars_metadata(self.asked, "").items()}

    def columns(self) -> tuple[list[str], list[str]]:
        """Of the table: keys and metrics."""
        found = Experiment(self.asked, self.table, "", api_pb2.GetExperimentRequest()).run()
        return [one.name for one in found.hparam_infos], [one.name.tag for one in found.metric_infos]

    def types(self) -> dict[str, str]:
        found = Experiment(self.asked, self.table, "", api_pb2.GetExperimentRequest()).run()
        return {one.name: api_pb2.DataType.Name(one.type) for one in found.hparam_infos}

    def rows(self) -> dict[str, Any]:
        """Of the table, by run: values by key, metrics by tag, and the status."""
        statuses = list(api_pb2.Status.values())
        asked = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=100, allowed_statuses=statuses)
        found = SessionGroups(self.asked, self.table, "", asked).run()
        return {
            row.name: SimpleNamespace(
                values={key: getattr(value, value.WhichOneof("kind")) for key, value in row.hparams.items()},
                metrics={one.name.tag: one.value for one in row.metric_values},
                status=api_pb2.Status.Name(row.sessions[0].status),
            )
            for row in found.session_groups
        }

    def charts(self) -> dict[str, list[dict[str, str]]]:
        """The series of each chart with a band, by title."""
        found = self.custom.layout_impl(self.asked, "")  # text, or an empty dict
        layout: Any = json.loads(found) if isinstance(found, str) else found
        return {
            chart["title"]: chart["margin"]["series"]
            for category in layout.get("category", [])
            if category["title"] == board.CATEGORY
            for chart in category["chart"]
        }

    def curve(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Steps and values, as a chart asks for them."""
        found = self.custom.scalars_impl(self.asked, run, f"({tag}$)", "")["tag_to_events"]
        return [(step, value) for _, step, value in found.get(tag, [])]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Shown:
    folder = tmp_path_factory.mktemp("sweep")
    complete(folder, temperatures(0.1, 0.5), failing=[5])
    return Shown(folder)


def test_the_table_has_what_varies_and_the_main_figures_and_nothing_else(swept):
    assert swept.columns() == (["loss.temperature", "seed"], ["eval/knn/top1", "eval/few_shot/5w1s/top1"])
    assert swept.types() == {"loss.temperature": "DATA_TYPE_FLOAT64", "seed": "DATA_TYPE_FLOAT64"}


def test_each_job_is_a_row_with_its_values_and_a_failed_one_says_so(swept):
    rows = swept.rows()
    assert {name: row.values for name, row in rows.items()} == {
        f"temperature={temperature},seed={seed}": {"loss.temperature": temperature, "seed": seed}
        for temperature in (0.1, 0.5)
        for seed in (0, 1, 2)
    }
    failed = rows.pop("temperature=0.5,seed=2")
    assert (failed.status, failed.metrics) == ("STATUS_FAILURE", {})
    for row in rows.values():
        assert row.status == "STATUS_SUCCESS"
        assert row.metrics == {"eval/knn/top1": 0.5, "eval/few_shot/5w1s/top1": 0.25}


def test_runs_have_the_same_keys_even_where_a_loss_lacks_one(tmp_path):
    losses = {"loss=nt_xent": NT_XENT} | {f"loss.beta={beta}": HARD | {"beta": beta} for beta in (1.0, 2.0)}
    complete(tmp_path, losses, seeds=[0])
    shown = Shown(tmp_path)
    assert shown.columns()[0] == ["loss", "loss.beta"]
    assert {name: row.values for name, row in shown.rows().items()} == {
        "loss=nt_xent": {"loss": "NTXent", "loss.beta": "-"},
        "beta=1.0": {"loss": "HardNegative", "loss.beta": 1.0},
        "beta=2.0": {"loss": "HardNegative", "loss.beta": 2.0},
    }


def test_each_setting_has_a_curve_with_a_band_at_the_same_steps(swept):
    assert swept.charts() == {
        "loss": [{"value": "mean/train/loss", "lower": "mean/train/loss/lower", "upper": "mean/train/loss/upper"}]
    }
    means = sorted(run for run in swept.tags if run.startswith(board.FOLDER))
    assert means == [f"{board.FOLDER}/temperature=0.1,seeds=3", f"{board.FOLDER}/temperature=0.5,seeds=2"]
    assert swept.curve(means[0], "mean/train/loss") == [(10, pytest.approx(2)), (20, pytest.approx(3))]
    half = 4.302652729911275 / 3**0.5  # t with 2 degrees of freedom, from a table; the deviation is 1
    for end, sign in (("lower", -1), ("upper", 1)):
        expected = [(10, pytest.approx(2 + sign * half)), (20, pytest.approx(3 + sign * half))]
        assert swept.curve(means[0], f"mean/train/loss/{end}") == expected
    assert swept.curve(means[1], "mean/train/loss")[0] == (10, pytest.approx(4.5)), "of the seeds that finished"


def test_no_job_has_a_tag_of_a_chart_with_a_band(swept):
    """Else TensorBoard complains below the chart that the job has no band."""
    charted = {tag for (series,) in swept.charts().values() for tag in series.values()}
    for run, tags in swept.tags.items():
        assert run.startswith(board.FOLDER) == bool(charted & set(tags))


def test_after_another_command_each_thing_is_there_once_and_up_to_date(tmp_path):
    sweep = complete(tmp_path, temperatures(0.1, 0.5), failing=[5])
    assert Shown(tmp_path).rows()["temperature=0.5,seed=2"].status == "STATUS_FAILURE"
    play(sweep, 5)
    board.renew(sweep)
    board.renew(sweep)
    shown = Shown(tmp_path)
    assert sorted(run for run in shown.tags if run.startswith(board.FOLDER)) == [
        f"{board.FOLDER}/temperature=0.1,seeds=3",
        f"{board.FOLDER}/temperature=0.5,seeds=3",
    ]
    curve = shown.curve(f"{board.FOLDER}/temperature=0.5,seeds=3", "mean/train/loss")
    assert curve == [(10, pytest.approx(5)), (20, pytest.approx(6))]
    assert len(shown.charts()["loss"]) == 1
    assert {row.status for row in shown.rows().values()} == {"STATUS_SUCCESS"}
    assert len(list(tmp_path.rglob(f"*{board.COLUMNS}"))) == 1


def test_one_seed_for_each_setting_makes_no_further_run(tmp_path):
    sweep = complete(tmp_path, temperatures(0.1, 0.5), seeds=[0])
    assert Shown(tmp_path).tags.keys() == {job.name for job in sweep.jobs}
    assert Shown(tmp_path).charts() == {}


def test_seeds_that_finished_in_a_smaller_sweep_count(tmp_path):
    complete(tmp_path / "three", temperatures(0.1))
    larger = planned(tmp_path / "four", temperatures(0.1), seeds=range(4), outputs=tmp_path)
    assert larger.unfinished == [3]
    play(larger, 3)
    board.renew(larger)
    curve = Shown(tmp_path / "four").curve(f"{board.FOLDER}/seeds=4", "mean/train/loss")
    assert curve == [(10, pytest.approx(2.5)), (20, pytest.approx(3.5))]


def test_nothing_is_written_for_a_sweep_without_a_finished_job(tmp_path):
    complete(tmp_path, temperatures(0.1), failing=[0, 1, 2])
    shutil.rmtree(tmp_path / "seed=0")
    assert not list(tmp_path.rglob(f"*{board.COLUMNS}"))
    assert not (tmp_path / board.FOLDER).exists()
    assert Shown(tmp_path).rows().keys() == {"seed=1", "seed=2"}
