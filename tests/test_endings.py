"""How a run ends and how it reports that, in result.json and when its folder is deleted or moved."""

import functools
import json
import signal
from pathlib import Path

import children
import deeds
import pytest
import waiting
from children import until
from run_folders import VIEWS, checkpoint

from ssl_runner.runs import run_folder

RUN = [*VIEWS, "baselines=[]"]


@pytest.fixture(scope="module", autouse=True)
def trusted(session_environment):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_RUNNER_TRUSTED", "waiting")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def assert_ended(ended: children.Ended, code: int, *words: str) -> None:
    """It ended with this exit code and one line, without a traceback."""
    assert ended.code == code, ended.err
    said = [line for line in ended.err.splitlines() if line.strip() and ": dropped " not in line]
    assert len(said) == 1, ended.err
    for word in words:
        assert word in said[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_records_its_step_and_is_finished_after_resuming(number, tmp_path):
    folder = tmp_path / "run"
    deed = functools.partial(deeds.signalled_at_step, 2, number)
    ended = children.command(tmp_path / "1", [*RUN, f"hydra.run.dir={folder}"], deed)
    assert_ended(ended, 130, "stopped after step 3 of 6; resume with: ssl-train resume=")
    assert (run_folder.status(folder), result(folder)["step"]) == ("interrupted", 3)
    assert checkpoint(folder)["step"] == 3
    assert children.command(tmp_path / "2", [f"resume={folder}"]).code == 0
    assert run_folder.status(folder) == "finished"
    assert "step" not in result(folder)


def test_a_hang_up_that_is_ignored_stays_ignored(tmp_path):
    folder = tmp_path / "run"
    deed = functools.partial(deeds.hung_up, 2, True)
    assert children.command(tmp_path / "1", [*RUN, f"hydra.run.dir={folder}"], deed).code == 0
    assert run_folder.status(folder) == "finished"


def test_a_hang_up_during_evaluation_is_an_interruption_too(tmp_path, monkeypatch):
    folder, file = tmp_path / "run", tmp_path / "waiting"
    monkeypatch.setenv(waiting.FILE, str(file))
    arguments = [*RUN, "eval.few_shot._target_=waiting.WaitingFewShot", f"hydra.run.dir={folder}"]
    child = children.Child(tmp_path / "1", children.type_in, arguments)
    until(lambda: file.exists() or not child.process.is_alive())
    child.signal(signal.SIGHUP)
    assert_ended(child.ended(), 130, "resume with: ssl-train resume=")
    assert (run_folder.status(folder), result(folder)["step"]) == ("interrupted", 6)


def test_a_failed_run_records_the_step_and_the_reason_in_one_line(tmp_path):
    folder = tmp_path / "run"
    ended = children.command(
        tmp_path / "1", [*RUN, f"hydra.run.dir={folder}"], functools.partial(deeds.weights_are_lost, 3)
    )
    assert ended.code == 1
    assert run_folder.status(folder) == "failed"
    assert result(folder)["reason"] == ended.err.splitlines()[-1]
    assert "norm of the weights is nan at step 4" in result(folder)["reason"]
    assert result(folder)["step"] == 3


def breaks() -> None:
    raise ZeroDivisionError("of two\nlines")


def test_a_bug_is_recorded_as_a_failure_with_the_name_of_its_class(tmp_path):
    folder = tmp_path / "run"
    deed = functools.partial(deeds.at_step, 1, breaks)
    assert children.command(tmp_path / "1", [*RUN, f"hydra.run.dir={folder}"], deed).code == 1
    found = result(folder)
    assert (found["status"], found["step"], found["reason"]) == ("failed", 1, "ZeroDivisionError: of two lines")


def test_a_killed_run_is_distinguished_from_a_running_one(tmp_path, monkeypatch):
    folder, file = tmp_path / "run", tmp_path / "waiting"
    monkeypatch.setenv(waiting.FILE, str(file))
    arguments = [*RUN, "loss._target_=waiting.WaitingNTXent", f"hydra.run.dir={folder}"]
    child = children.Child(tmp_path / "1", children.type_in, arguments)
    until(lambda: file.exists() or not child.process.is_alive())
    assert run_folder.status(folder) == "running"
    assert_ended(
        children.command(tmp_path / "2", [f"reproduce={folder}"]), 2, "(running) did not finish; it is still running"
    )
    child.signal(signal.SIGKILL)
    assert child.ended().code == -signal.SIGKILL
    assert result(folder)["status"] == "running"
    assert run_folder.status(folder) == "killed"
    assert_ended(
        children.command(tmp_path / "3", [f"reproduce={folder}"]), 2, "(killed) did not finish; resume with: ssl-train"
    )


def test_reading_the_status_creates_no_lock(tmp_path):
    (tmp_path / "result.json").write_text('{"status": "running"}')
    assert run_folder.status(tmp_path) == "killed"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_reading_the_status_repeatedly_does_not_block_a_run(tmp_path):
    (tmp_path / "result.json").write_text('{"status": "running"}')
    (tmp_path / ".lock").touch()
    watcher = children.Child(tmp_path / "logs", _look_for_ever, tmp_path)
    until(lambda: (tmp_path / "looked").exists())
    try:
        for _ in range(200):
            with run_folder.alone_in(tmp_path):
                pass
    finally:
        watcher.signal(signal.SIGKILL)
        watcher.ended()


def _look_for_ever(folder: Path) -> None:
    while True:
        run_folder.status(folder)
        (folder / "looked").touch()


GONE = "with everything saved in it; start the run again, or put the folder back"


@pytest.mark.parametrize(
    "cadence", [["trainer.log_every=1"], ["trainer.log_every=100", "trainer.diagnostics_every=null"]]
)
@pytest.mark.parametrize("deed", [deeds.folder_vanishes, functools.partial(deeds.folder_is_moved, step=3)])
def test_a_missing_run_folder_ends_its_run_with_one_sentence(deed, cadence, tmp_path):
    folder = tmp_path / "run"
    ended = children.command(
        tmp_path / "1", [*RUN, *cadence, f"hydra.run.dir={folder}"], functools.partial(deed, folder)
    )
    assert_ended(
        ended,
        1,
        f"the run folder {folder} was deleted or moved after step 3, {GONE} and resume with: ssl-train resume={folder}",
    )
    assert not folder.exists()


def test_a_run_in_a_folder_that_was_put_back_is_resumed(tmp_path):
    folder = tmp_path / "run"
    deed = functools.partial(deeds.folder_is_moved, folder, 3)
    assert children.command(tmp_path / "1", [*RUN, f"hydra.run.dir={folder}"], deed).code == 1
    (tmp_path / "run is here now").rename(folder)
    assert run_folder.status(folder) == "killed"
    assert children.command(tmp_path / "2", [f"resume={folder}"]).code == 0
    assert run_folder.status(folder) == "finished"


def test_a_folder_deleted_before_evaluation_is_reported_after_it(tmp_path):
    folder = tmp_path / "run"
    deed = functools.partial(deeds.folder_vanishes_before_evaluation, folder)
    assert_ended(
        children.command(tmp_path / "1", [*RUN, f"hydra.run.dir={folder}"], deed),
        1,
        f"was deleted or moved after step 6, {GONE}",
    )
    assert not folder.exists()


def test_a_deleted_log_is_named(tmp_path):
    folder = tmp_path / "run"
    deed = functools.partial(deeds.at_step, 3, (folder / "metrics.jsonl").unlink)
    ended = children.command(tmp_path / "1", [*RUN, f"hydra.run.dir={folder}"], deed)
    assert_ended(ended, 1, f"{folder / 'metrics.jsonl'} was deleted or moved after step 3, while the run wrote to it")
    assert result(folder)["status"] == "failed"


@pytest.mark.parametrize(
    "arguments",
    [[], ["-m", "seed=1,2"], ["dry_run=true"], ["resume=run"], ["reproduce=run"], ["--cfg", "job"], ["sead=1"]],
    ids=" ".join,
)
def test_a_missing_working_folder_is_reported_in_one_sentence(arguments, tmp_path):
    deed = functools.partial(deeds.working_folder_vanishes, tmp_path / "here")
    ended = children.command(tmp_path / "1", arguments, deed)
    assert_ended(ended, 2, "the working folder was deleted or moved; change to one that exists (cd)")
    assert ended.out == ""


def test_help_needs_no_working_folder(tmp_path):
    deed = functools.partial(deeds.working_folder_vanishes, tmp_path / "here")
    ended = children.command(tmp_path / "1", ["--help"], deed)
    assert (ended.code, ended.err) == (0, "")
    assert "ssl-train" in ended.out


def test_a_working_folder_deleted_during_a_run_affects_only_runs_inside_it(tmp_path):
    outside, inside = tmp_path / "run", tmp_path / "here"
    deed = functools.partial(deeds.working_folder_vanishes, inside, 3)
    ended = children.command(tmp_path / "1", [*RUN, f"hydra.run.dir={outside}"], deed)
    assert ended.code == 0, ended.err
    assert run_folder.status(outside) == "finished"
    assert_ended(
        children.command(tmp_path / "2", [*RUN, "hydra.run.dir=run"], deed),
        1,
        f"{inside / 'run'} was deleted or moved after step",
    )
    assert not inside.exists()
