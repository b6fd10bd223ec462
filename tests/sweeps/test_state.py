"""How a job stands is read from run folders."""

import json
from pathlib import Path

from ssl_runner.runtime.file_lock import locked
from ssl_runner.sweeps.manifest import Job
from ssl_runner.sweeps.state import finished_runs, progress, state

JOB = Job("seed=1", ["seed=1"], {"seed": 1}, "hash", "data")
FINISHED = {"status": "finished", "config_hash": "hash", "dataset": {"fingerprint": "data"}}


def write(folder: Path, **content) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def test_a_job_is_missing_running_killed_interrupted_failed_or_finished(tmp_path):
    folder = tmp_path / "job"
    assert state(JOB, folder, {}).status == "missing"
    write(folder, **FINISHED | {"status": "running"})
    assert state(JOB, folder, {}).status == "killed"
    with locked(folder / ".lock"):
        assert state(JOB, folder, {}).status == "running"
    write(folder, **FINISHED | {"status": "failed", "reason": "why"})
    assert (state(JOB, folder, {}).status, state(JOB, folder, {}).reason) == ("failed", "why")
    write(folder, **FINISHED)
    assert state(JOB, folder, {}).finished


def test_a_finished_run_of_the_same_content_counts_wherever_it_is(tmp_path):
    other = write(tmp_path / "outputs" / "name" / "run", **FINISHED)
    write(tmp_path / "outputs" / "deep" / "er" / "sweep" / "seed=2", **FINISHED | {"config_hash": "another"})
    write(tmp_path / "outputs" / "name" / "interrupted", **FINISHED | {"status": "interrupted"})
    found = finished_runs(tmp_path / "outputs")
    assert found.keys() == {"hash", "another"}
    assert state(JOB, tmp_path / "job", found).folder == other
    assert state(JOB, tmp_path / "job", {}).status == "missing"


def test_other_data_is_another_result(tmp_path):
    write(tmp_path / "outputs" / "run", **FINISHED | {"dataset": {"fingerprint": "other"}})
    assert state(JOB, tmp_path / "job", finished_runs(tmp_path / "outputs")).status == "missing"


def test_a_damaged_result_is_no_result(tmp_path):
    folder = write(tmp_path / "outputs" / "run", **FINISHED)
    (folder / "result.json").write_text('{"status": "fin')
    assert finished_runs(tmp_path / "outputs") == {}


def test_progress_is_the_last_whole_line(tmp_path):
    folder = write(tmp_path, **FINISHED | {"planned_steps": 30})
    rows = [{"step": step, "train/loss": 1 / step} for step in range(1, 2000)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 20')
    found = progress(folder)
    assert (found.step, found.steps, found.loss) == (1999, 30, 1 / 1999)
    assert progress(tmp_path / "none").step == 0
