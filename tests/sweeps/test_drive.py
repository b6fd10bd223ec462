"""The driver of a sweep, with a launcher whose jobs only write results."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from ssl_runner.runtime.file_lock import locked
from ssl_runner.sweeps import resources
from ssl_runner.sweeps.drive import Grid, drive
from ssl_runner.sweeps.manifest import Job, Manifest
from ssl_runner.sweeps.sweep import Sweep


class Job_:
    """Ends at the third look, with the exit code that its launcher has for it."""

    ours = True

    def __init__(self, launcher, number: int) -> None:
        self.launcher, self.number, self.looks = launcher, number, 0

    def ended(self) -> int | None:
        self.looks += 1
        if self.looks < 3 and not self.launcher.endless:
            return None
        if self.launcher.endless and self.number not in self.launcher.stopped:
            return None
        self.launcher.working.remove(self.number)
        code = self.launcher.codes.get(self.number, 0)
        status = "finished" if code == 0 else "interrupted" if code == 130 else "failed"
        write(self.launcher.sweep, self.number, status)
        return code

    def stop(self) -> None:
        self.launcher.stopped.append(self.number)
        self.launcher.codes[self.number] = 130

    def kill(self) -> None:
        self.launcher.killed.append(self.number)


class Fake:
    detached = False

    def __init__(self, sweep: Sweep, slots: int, endless: bool = False, **codes: int) -> None:
        self.sweep, self.most, self.endless = sweep, slots, endless
        self.codes = {int(number): code for number, code in codes.items()}
        self.working, self.order, self.stopped, self.killed = [], [], [], []
        self.at_once = 0

    def slots(self, sweep: Sweep) -> int:
        return self.most

    @contextlib.contextmanager
    def opened(self, sweep: Sweep):
        yield

    def start(self, sweep: Sweep, number: int) -> Job_:
        self.order.append(number)
        self.working.append(number)
        self.at_once = max(self.at_once, len(self.working))
        return Job_(self, number)


class Said:
    """Takes the place of the table."""

    def __init__(self) -> None:
        self.warnings, self.when_shown = [], lambda: None

    @contextlib.contextmanager
    def shown(self, sweep):
        self.when_shown()
        yield

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def started(self, *_) -> None: ...
    def ended(self, *_) -> None: ...
    def refresh(self, *_) -> None: ...
    def stopping(self, *_) -> None: ...


def write(sweep: Sweep, number: int, status: str) -> None:
    folder = sweep.folder_of(number)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"status": status, "config_hash": sweep.jobs[number].config_hash, "reason": "why"}
    (folder / "result.json").write_text(json.dumps(content))


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    jobs = [Job(f"seed={n}", [f"seed={n}"], {"seed": n}, f"hash{n}", None) for n in range(5)]
    return Sweep(tmp_path, Manifest("ssl-train -m", None, "", jobs), None)


def statuses(sweep: Sweep) -> list[str]:
    return [one.status for one in sweep.states]


def test_every_job_is_run_once_in_order_and_no_more_at_once_than_there_are_slots(sweep):
    launcher = Fake(sweep, 2)
    drive(sweep, launcher, Grid(sweep.unfinished), Said())
    assert launcher.order == [0, 1, 2, 3, 4]
    assert launcher.at_once == 2
    assert statuses(sweep) == ["finished"] * 5
    again = Fake(sweep, 2)
    drive(sweep, again, Grid(sweep.unfinished), Said())
    assert again.order == []


def test_a_failed_job_ends_alone_with_its_reason(sweep):
    drive(sweep, Fake(sweep, 2, **{"1": 1, "2": -9}), Grid(sweep.unfinished), Said())
    assert statuses(sweep) == ["finished", "failed", "failed", "finished", "finished"]
    assert sweep.states[1].reason == "why"
    assert "SIGKILL" in sweep.states[2].reason
    assert sweep.unfinished == [1, 2]


@pytest.fixture
def not_ignored(number):
    """Tests under nohup ignore SIGHUP, and so would the sweep: it would never end."""
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
    yield
    signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_at_a_signal_running_jobs_save_and_no_other_one_starts(sweep, number, not_ignored):
    launcher, said = Fake(sweep, 2, endless=True), Said()
    said.refresh = lambda *_: None if launcher.stopped else os.kill(os.getpid(), number)
    with pytest.raises(KeyboardInterrupt):
        drive(sweep, launcher, Grid(sweep.unfinished), said)
    assert (launcher.order, launcher.stopped, launcher.killed) == ([0, 1], [0, 1], [])
    assert statuses(sweep) == ["interrupted", "interrupted", "missing", "missing", "missing"]


def test_a_second_ctrl_c_ends_jobs_at_once(sweep):
    launcher, said = Fake(sweep, 2, endless=True), Said()
    launcher.stopped = [7]  # no job reacts to being stopped
    Job_.stop, stop = lambda self: None, Job_.stop
    said.refresh = lambda *_: os.kill(os.getpid(), signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            drive(sweep, launcher, Grid(sweep.unfinished), said)
    finally:
        Job_.stop = stop
    assert launcher.killed == [0, 1]


def test_a_job_that_an_earlier_command_still_runs_is_waited_for_and_then_resumed(sweep):
    write(sweep, 1, "running")
    with contextlib.ExitStack() as held:
        held.enter_context(locked(sweep.folder_of(1) / ".lock"))
        launcher, said = Fake(sweep, 5), Said()

        def refresh(*_):
            if len(launcher.order) == 4 and not launcher.working:  # all but that one have ended
                held.close()

        said.refresh = refresh
        drive(sweep, launcher, Grid(sweep.unfinished), said)
    assert launcher.order == [0, 2, 3, 4, 1]
    assert statuses(sweep) == ["finished"] * 5


def test_code_that_is_edited_while_a_sweep_runs_is_reported_once(sweep, monkeypatch):
    stamps = iter([1, 1, 1, 2, 2, 2])
    monkeypatch.setattr(resources, "code_stamp", lambda: next(stamps))
    said = Said()
    drive(sweep, Fake(sweep, 1), Grid(sweep.unfinished), said)
    (warning,) = said.warnings
    assert "the code was edited while this sweep runs: seed=2 and the jobs after it" in warning
