"""Submissions to SLURM, with commands that only note what they are asked; test_slurm_cluster has a real one."""

import builtins
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import children
import pytest

from ssl_runner.errors import ClusterSilent, InvalidValue
from ssl_runner.runtime.console import Console
from ssl_runner.sweeps.manifest import Manifest
from ssl_runner.sweeps.slurm import queue as slurm_queue
from ssl_runner.sweeps.slurm.launcher import Slurm
from ssl_runner.sweeps.slurm.record import Record
from ssl_runner.sweeps.slurm.task import Task
from ssl_runner.sweeps.sweep import Sweep

ROOT = Path(__file__).parents[2]
DEFAULTS = {
    "partition": None,
    "account": None,
    "qos": None,
    "minutes": 240,
    "seconds_to_save": 120,
    "requeues": 100,
    "cpus_per_job": 4,
    "memory_per_job": None,
    "gpus_per_job": 1,
    "jobs": 100,
    "processes": 1,
    "threads": "auto",
    "setup": [],
    "sbatch": {},
    "submit": True,
}
COMMANDS = {
    "sbatch": 'cp "$1" "$FAKE/asked_$(ls "$FAKE" | grep -c asked_)"; [ ! -f "$FAKE/refusal" ] || '
    '{ cat "$FAKE/refusal" >&2; exit 1; }; echo "Submitted batch job $((16 + $(ls "$FAKE" | grep -c asked_)))"',
    "squeue": '[ ! -f "$FAKE/silence" ] || { cat "$FAKE/silence" >&2; exit 1; }; cat "$FAKE/queue" 2>/dev/null || true',
    "sacct": 'cat "$FAKE/accounts" 2>/dev/null || { echo "accounting storage is disabled" >&2; exit 1; }',
    "scontrol": 'echo "MaxArraySize            = $(cat "$FAKE/most" 2>/dev/null || echo 1001)"',
    "scancel": 'echo "$@" >>"$FAKE/cancelled"',
    "srun": "exit 1",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """A folder of what the commands answer and were asked."""
    pytest.importorskip("submitit")
    fake, programs = tmp_path / "fake", tmp_path / "bin"
    fake.mkdir()
    programs.mkdir()
    for name, text in COMMANDS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(fake))
    return fake


def launcher(**given) -> Slurm:
    return Slurm(**DEFAULTS | given)


def sweep(folder: Path, jobs: int = 3) -> Sweep:
    words = [["experiment=x", f"seed={seed}"] for seed in range(jobs)]
    configs = [{"seed": seed, "name": "run"} for seed in range(jobs)]
    return Sweep(folder, Manifest.of("ssl-train -m seed=0,1,2", None, words, configs, [None] * jobs), None)


def write(sweep: Sweep, number: int, status: str, **content) -> None:
    folder = sweep.folder_of(number)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"status": status, "config_hash": sweep.jobs[number].config_hash, **content}
    (folder / "result.json").write_text(json.dumps(facts))


def flags(cluster: Path, number: int = 0) -> dict[str, str]:
    """What sbatch was asked."""
    lines = (cluster / f"asked_{number}").read_text().splitlines()
    found = [line.removeprefix("#SBATCH --").partition("=") for line in lines if line.startswith("#SBATCH")]
    return {key: value.strip("'") for key, _, value in found}


def test_jobs_become_one_array_with_what_was_asked_for(cluster, tmp_path):
    one = launcher(
        partition="gpu",
        account="lab",
        qos="high",
        minutes=60,
        memory_per_job=7.5,
        gpus_per_job=2,
        processes=2,
        jobs=2,
        setup=["module load cuda"],
        sbatch={"mail_user": "me@example.org", "constraint": "a100", "exclusive": True, "nice": None},
    )
    folder = tmp_path / "sweep"
    assert one.submit(sweep(folder), Console()) == 0
    asked = flags(cluster)
    assert asked | {"output": ""} == {
        "partition": "gpu",
        "account": "lab",
        "qos": "high",
        "time": "60",
        "mem": "7680M",
        "gpus-per-node": "2",
        "cpus-per-task": "4",
        "array": "0-2%2",
        "signal": "USR2@120",
        "requeue": "",
        "mail-user": "me@example.org",
        "constraint": "a100",
        "exclusive": "",
        "job-name": Record(folder).submissions[0].name,
        "nodes": "1",
        "open-mode": "append",
        "wckey": "submitit",
        "output": "",
    }
    text = (cluster / "asked_0").read_text()
    assert "module load cuda" in text and "--cpus-per-task=4 " in text.splitlines()[-1]
    assert Record(folder).tasks() == {"seed=0": "17_0", "seed=1": "17_1", "seed=2": "17_2"}
    import submitit

    (task,) = [submitit.SlurmJob(folder / "slurm", f"17_{n}").submission().function for n in (1,)]
    job = folder / "seed=1"
    assert vars(task) == {
        "folder": str(job),
        "output": str(job / "output.log"),
        "processes": 2,
        "threads": 2,
        "child": None,
    }
    assert json.loads((folder / "seed=1" / "job.json").read_text())["config"]["seed"] == 1


def test_the_same_command_submits_only_what_is_neither_done_nor_in_the_queue(cluster, tmp_path, capsys):
    jobs = sweep(tmp_path, 8)
    launcher().submit(jobs, Console())
    write(jobs, 0, "finished")
    write(jobs, 1, "interrupted")
    write(jobs, 3, "failed", reason="the loss is not finite")
    write(jobs, 4, "interrupted")
    states = ["COMPLETED", "PENDING", "RUNNING", "FAILED", "CANCELLED", "COMPLETING", "PENDING", "OUT_OF_MEMORY"]
    (cluster / "queue").write_text("".join(f"17_{n}|{state}|a|b\n" for n, state in enumerate(states)))
    capsys.readouterr()
    assert launcher(submit=False).submit(sweep(tmp_path, 8), Console()) == 1
    assert launcher().submit(sweep(tmp_path, 8), Console()) == 0
    shown, submitted = capsys.readouterr().out.split("submit=false")[0], Record(tmp_path).submissions
    for line in ("done  1", "requeued  1", "running  2", "failed  2", "cancelled  1", "pending  1"):
        assert line in shown
    assert "seed=3: the loss is not finite" in shown
    assert "seed=7: out of memory; raise hydra.launcher.memory_per_job" in shown
    assert [one.jobs for one in submitted[1:]] == [["seed=3", "seed=4", "seed=7"]]
    assert Record(tmp_path).tasks()["seed=4"] == "18_1"


def test_a_task_that_squeue_forgot_is_looked_up_in_the_accounts_and_in_its_folder(cluster, tmp_path, capsys):
    launcher().submit(sweep(tmp_path, 3), Console())
    (cluster / "accounts").write_text("17_0|CANCELLED by 0\n17_1|NODE_FAIL\n17_[2-9]|PENDING\n")
    launcher(submit=False).submit(sweep(tmp_path, 3), Console())
    shown = capsys.readouterr().out
    assert "cancelled  1" in shown and "seed=1: its node failed" in shown
    assert f"seed=2: it did not start, and wrote no log: do the compute nodes see {tmp_path}?" in shown


def test_a_command_that_is_killed_as_it_submits_does_not_submit_twice(cluster, tmp_path):
    begun = Record(tmp_path).begin(["seed=0", "seed=1", "seed=2"])
    (cluster / "queue").write_text("".join(f"9_{n}|PENDING|{begun.name}\n" for n in range(3)))
    launcher().submit(sweep(tmp_path), Console())
    assert not (cluster / "asked_0").exists()
    assert Record(tmp_path).tasks()["seed=2"] == "9_2"
    (other := tmp_path / "other").mkdir()
    Record(other).begin(["seed=0", "seed=1", "seed=2"])  # killed before SLURM had heard of it
    launcher().submit(sweep(other), Console())
    assert Record(other).tasks()["seed=2"] == "17_2"


def test_more_jobs_than_an_array_takes_become_several_that_share_the_slots(cluster, tmp_path):
    (cluster / "most").write_text("4")
    launcher(jobs=6).submit(sweep(tmp_path, 10), Console())
    assert [flags(cluster, n)["array"] for n in range(3)] == ["0-3%2", "0-3%2", "0-1%2"]
    assert Record(tmp_path).tasks()["seed=9"] == "19_1"


def test_what_slurm_refuses_is_reported_and_leaves_no_submission(cluster, tmp_path):
    (cluster / "refusal").write_text("sbatch: error: invalid partition specified: gpu")
    with pytest.raises(InvalidValue, match=r"SLURM refused the jobs: sbatch: error: invalid partition specified: gpu"):
        launcher(partition="gpu").submit(sweep(tmp_path), Console())
    assert Record(tmp_path).submissions == []


def test_a_scheduler_that_does_not_answer_is_no_mistake_of_the_user(cluster, tmp_path):
    (cluster / "silence").write_text("slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(ClusterSilent, match=r"Unable to contact slurm controller; the jobs in the queue go on"):
        launcher().submit(sweep(tmp_path), Console())
    assert not (cluster / "asked_0").exists()


def test_a_command_that_waits_submits_each_job_and_asks_for_all_together(cluster, tmp_path, monkeypatch):
    one, jobs = launcher(), sweep(tmp_path)
    with one.opened(jobs):
        working = [one.start(jobs, number) for number in (0, 1)]
        assert [each.task for each in working] == ["17", "18"]
        assert Record(tmp_path).tasks() == {"seed=0": "17", "seed=1": "18"}
        (cluster / "queue").write_text("17|RUNNING|a\n18|FAILED|b\n")
        monkeypatch.setattr(slurm_queue, "EVERY", 0.0)
        assert [each.ended() for each in working] == [None, 1]
        (cluster / "silence").write_text("restarting")
        assert working[0].ended() is None
        working[0].stop()
        working[0].stop()
        assert (cluster / "cancelled").read_text() == "--quiet 17\n"
    again = launcher()
    (cluster / "silence").unlink()
    with again.opened(jobs):
        assert again.start(jobs, 0).task == "17"  # still in the queue
        assert again.start(jobs, 1).task == "19"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minutes": 0}, r"hydra.launcher.minutes=0; it must be at least 1"),
        ({"minutes": 2}, r"hydra.launcher.minutes=2, seconds_to_save=120: .*; raise minutes"),
        ({"jobs": 0}, r"hydra.launcher.jobs=0; it must be at least 1"),
        ({"gpus_per_job": -1}, r"hydra.launcher.gpus_per_job=-1; it must be at least 0"),
        ({"memory_per_job": 0}, r"hydra.launcher.memory_per_job=0; it must be positive"),
        ({"processes": 2}, r"hydra.launcher.gpus_per_job=1, processes=2; each process needs a GPU"),
        ({"sbatch": {"cpus_per_task": 2}}, r"hydra.launcher.sbatch.cpus_per_task: write hydra.launcher.cpus_per_job"),
        ({"sbatch": {"output": "x"}}, r"hydra.launcher.sbatch.output: the sweep sets it; leave it out"),
    ],
)
def test_values_that_cannot_be_are_refused(given, message, cluster):
    with pytest.raises(InvalidValue, match=message):
        launcher(**given)


def test_without_submitit_the_command_that_installs_it_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "submitit":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InvalidValue, match=r"pip install 'ssl-runner\[slurm\]'"):
        launcher()


def test_without_slurm_another_launcher_is_named(cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidValue, match=r"there is no sbatch here; .* hydra/launcher=local"):
        launcher()


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2, "submissions": []}', '{"version": 1, "submissions": [3]}'])
def test_a_damaged_record_is_reported_with_what_to_do(text, tmp_path):
    (tmp_path / "slurm.json").write_text(text)
    with pytest.raises(InvalidValue, match=r"slurm.json is damaged .*; cancel the sweep's jobs that squeue shows"):
        Record(tmp_path)


RUN = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--job") + 1])
if (folder / "ends").exists():
    sys.exit(int((folder / "ends").read_text()))
def save(*_):
    (folder / "saved").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, save)
(folder / "started.new").write_text(str(os.getpid()))
(folder / "started.new").rename(folder / "started")
time.sleep(600)
"""


@pytest.fixture
def task(tmp_path, monkeypatch) -> Task:
    """A task whose job is a small program: it waits until it is asked to save, or ends with the code in a file."""
    package = tmp_path / "path" / "ssl_runner"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__path__.append({str(ROOT / 'ssl_runner')!r})")  # all else is ours
    (package / "train.py").write_text(RUN)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.chdir(package.parent)  # python -m looks there first
    folder = tmp_path / "job"
    folder.mkdir()
    return Task(str(folder), str(folder / "output.log"), 1, 1)


@pytest.mark.parametrize(("code", "line"), [(0, ""), (3, ""), (-9, "ended by SIGKILL, perhaps for want of memory")])
def test_a_task_ends_with_the_exit_code_of_its_job(code, line, task):
    folder = Path(task.folder)
    if code < 0:
        (folder.parent / "path" / "ssl_runner" / "train.py").write_text("import os; os.kill(os.getpid(), 9)")
    (folder / "ends").write_text(str(code))
    if code == 0:
        task()
    else:
        with pytest.raises(SystemExit) as ended:
            task()
        assert ended.value.code == (code if code > 0 else 128 - code)
    assert line in (folder / "output.log").read_text()


@pytest.fixture
def submitted(task, tmp_path, monkeypatch) -> list[str]:
    """The command with which submitit runs the task. Without SLURM, it queues again by the exit code 144."""
    submitit = pytest.importorskip("submitit")
    paths = submitit.core.utils.JobPaths(tmp_path / "logs", job_id="7")
    paths.folder.mkdir()
    submission = submitit.helpers.DelayedSubmission(task)
    submission.set_timeout(60, 3)
    submission.dump(paths.submitted_pickle)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "7")
    return [sys.executable, "-m", "submitit.core._submit", str(paths.folder)]


def test_at_the_time_limit_the_job_saves_and_is_queued_again(task, submitted):
    """Submitit's signal handler calls `checkpoint` while the task waits for its job."""
    folder = Path(task.folder)
    with subprocess.Popen(submitted, stdout=subprocess.DEVNULL) as process:
        wait_for(folder / "started")
        process.send_signal(signal.SIGUSR2)
        assert process.wait() == 144
    assert (folder / "saved").exists()
    (folder / "ends").write_text("0")
    assert subprocess.run(submitted, stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize(("state", "code"), [("RUNNING", 144), ("COMPLETING", 130)])
def test_a_job_that_was_asked_to_end_is_queued_again_only_where_slurm_does_not_end_it(
    state, code, task, submitted, cluster, monkeypatch
):
    """SIGTERM is the first sign of a preemption, of ``scancel`` and of ``scontrol requeue``."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (cluster / "queue").write_text(f"{state}\n")
    folder = Path(task.folder)
    with subprocess.Popen(submitted, stdout=subprocess.DEVNULL) as process:
        wait_for(folder / "started")
        os.kill(int((folder / "started").read_text()), signal.SIGTERM)
        assert process.wait() == code


def test_a_task_imports_no_torch():
    code = "import sys, ssl_runner.sweeps.slurm.task; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_a_job_that_has_ended_at_the_time_limit_is_not_queued_again(task):
    folder = Path(task.folder)
    (folder / "ends").write_text("0")
    (folder / "result.json").write_text('{"status": "finished"}')
    task()
    assert task.checkpoint() is None


def test_the_signal_of_the_time_limit_does_not_reach_the_job(task):
    task.child = task._start()
    wait_for(Path(task.folder) / "started")
    os.kill(task.child.pid, signal.SIGUSR2)
    assert task.checkpoint().function.folder == task.folder
    assert (Path(task.folder) / "saved").exists()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"there is no {path}"
        time.sleep(0.02)


def test_the_launcher_is_refused_before_anything_is_written(tmp_path, data_root, monkeypatch):
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))
    done = children.command(tmp_path / "logs", ["-m", "hydra/launcher=slurm", "hydra.launcher.minutes=0", "seed=1,2"])
    assert done.code == 2, done.err
    assert "hydra.launcher.minutes=0; it must be at least 1" in done.err
    assert not (tmp_path / "outputs").exists()
