"""Sweeps on a Ray cluster: of two nodes, one of which is lost, and what a launcher that cannot be reports."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import children
import pytest
import waiting
from run_folders import TINY

from ssl_runner.errors import InvalidValue
from ssl_runner.runtime.file_lock import is_held, locked
from ssl_runner.sweeps.ray import node as on_node
from ssl_runner.sweeps.ray.cluster import _answering
from ssl_runner.sweeps.ray.launcher import Ray, Task, _fitting, _room
from ssl_runner.sweeps.ray.node import How, run_job

NO_RAY = "Ray is not installed: pip install 'ssl-runner[ray]'"
ROOT = Path(__file__).parents[2]
WORDS = [
    "-m",
    *TINY,
    "loss._target_=waiting.WaitingNTXent",
    "seed=1,2",
    "hydra.launcher.threads=1",
]
ON_NODE = How(processes=1, threads=1, gpus=False, settings={}, working_folder=None)
KNOBS = {"jobs": "auto", "cpus_per_job": 1, "gpus_per_job": "auto", "processes": 1, "threads": "auto"}


@pytest.fixture
def environment(tmp_path, data_root, monkeypatch) -> None:
    """Of the sweep's command; what a job needs of it has to reach the nodes."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.setenv("SSL_RUNNER_TRUSTED", "waiting")
    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "outputs"))


@pytest.fixture
def cluster(monkeypatch):
    """Of two nodes with a CPU each; the first is the head."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 starves them where other tests run beside this one
    pytest.importorskip("ray", reason=NO_RAY)
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()
    signal.signal(signal.SIGTERM, before)  # Ray has put its own in the place


@pytest.fixture
def started(environment, tmp_path):
    """Starts a sweep; none outlives the test."""
    sweeps: list[children.Child] = []

    def start(*words: str) -> children.Child:
        sweeps.append(children.Child(tmp_path / "sweep.logs", children.type_in, [*WORDS, *words]))
        return sweeps[-1]

    yield start
    for sweep in sweeps:
        sweep.process.kill()
        sweep.ended()


def results(sweep: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("**/seed=*/result.json")}


def parents_of_jobs(outputs: Path) -> dict[str, int]:
    """The parent of each process that runs a job below a folder, by the job's name."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
            stat = (process / "stat").read_text()
        except OSError:  # it has ended
            continue
        folder = Path(words[words.index("--job") + 1]) if "--job" in words else Path()
        if folder.is_relative_to(outputs):
            found[folder.name] = int(stat.rpartition(")")[2].split()[1])
    return found


def wait_until(condition: Callable[[], object], sweep: children.Child) -> None:
    children.until(lambda: bool(condition()) or not sweep.process.is_alive())
    assert sweep.process.is_alive(), sweep.ended()


def test_jobs_of_a_lost_node_go_on_elsewhere_to_what_they_would_have_been(cluster, started, tmp_path, monkeypatch):
    outputs, gate = tmp_path / "outputs", tmp_path / "gate"
    with monkeypatch.context() as patch:
        patch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "local"))
        local = children.command(tmp_path / "logs", [*WORDS, "hydra.launcher.jobs=2"])
    assert local.code == 0, local.err
    variables = f"hydra.launcher.runtime_env={{env_vars:{{{waiting.FILE}:{gate}}}}}"
    sweep = started("hydra/launcher=ray", f"hydra.launcher.address={cluster.address}", variables)
    wait_until(lambda: len(list(outputs.glob("**/checkpoints/last.pt"))) == 2 and gate.exists(), sweep)
    before = parents_of_jobs(outputs)
    assert len(before) == 2
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    wait_until(lambda: parents_of_jobs(outputs) != before, sweep)
    lost = {name for name, parent in before.items() if parents_of_jobs(outputs).get(name) != parent}
    while sweep.process.is_alive():  # the lost job, which starts now, waits too
        gate.unlink(missing_ok=True)
        time.sleep(0.05)
    ended = sweep.ended()
    assert (ended.code, ended.err) == (0, ""), ended.out
    assert "2 finished of 2 jobs" in ended.out
    assert not [line for line in ended.out.splitlines() if "ray" in line.replace(str(tmp_path), "").lower()]
    found, expected = results(outputs), results(tmp_path / "local")
    assert len(expected) == 2
    metrics = {name: one["metrics"] for name, one in found.items()}
    assert metrics == {name: one["metrics"] for name, one in expected.items()}
    assert len(lost) == 1
    assert {name for name, one in found.items() if one.get("resumed_at_steps")} == lost


def test_an_address_where_no_cluster_answers_is_refused_in_one_message_before_anything_is_written(started, tmp_path):
    pytest.importorskip("ray", reason=NO_RAY)
    sweep = started("hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1")
    ended = sweep.ended()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("hydra.launcher.address=127.0.0.1:1: no Ray cluster answers; start a cluster with")
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("auto", "hydra.launcher.address=auto: no Ray cluster answers; start a cluster with `ray start --head`"),
        ("nonsense", "hydra.launcher.address=nonsense: no Ray cluster answers"),
        ("ray://127.0.0.1:10001", "a sweep runs on a machine of the cluster; give the command there"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(address, message, monkeypatch):
    pytest.importorskip("ray", reason=NO_RAY)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # which auto stands for; another test's cluster may be at work
    with pytest.raises(InvalidValue, match=re.escape(message)):
        _answering(address)


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidValue, match=re.escape("pip install 'ssl-runner[ray]'")):
        Ray(address="auto", runtime_env=None, **KNOBS)


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ({"jobs": 0}, "hydra.launcher.jobs=0; it must be a whole number, at least 1"),
        ({"jobs": "many"}, "hydra.launcher.jobs=many; it must be a whole number, at least 1"),
        ({"cpus_per_job": 0}, "hydra.launcher.cpus_per_job=0; it must be a whole number, at least 1"),
        ({"cpus_per_job": "auto"}, "hydra.launcher.cpus_per_job=auto; it must be a whole number, at least 1"),
        ({"processes": None}, "hydra.launcher.processes=None; it must be a whole number, at least 1"),
        ({"threads": 1.5}, "hydra.launcher.threads=1.5; it must be a whole number, at least 1"),
        ({"gpus_per_job": -1}, "hydra.launcher.gpus_per_job=-1; it must be a number, at least 0"),
        ({"gpus_per_job": 1.5}, "hydra.launcher.gpus_per_job=1.5; above 1 it must be a whole number"),
    ],
)
def test_a_value_that_cannot_be_is_refused(knob, message):
    with pytest.raises(InvalidValue, match=f"^{re.escape(message)}"):
        Ray(address="auto", runtime_env=None, **KNOBS | knob)


@pytest.mark.parametrize(
    ("cpus", "gpus", "message"),
    [
        (1, 4, "hydra.launcher.gpus_per_job=4, but no node of the Ray cluster has more than 2 GPUs; lower it, or 0"),
        (64, 0, "hydra.launcher.cpus_per_job=64, but no node of the Ray cluster has more than 16 CPUs; lower it"),
        (8, 1, "no node of the Ray cluster has both (CPUs and GPUs of its nodes: 4 and 2; 16 and 0); lower one"),
    ],
)
def test_a_job_that_no_node_has_room_for_is_refused(cpus, gpus, message):
    with pytest.raises(InvalidValue, match=re.escape(message)):
        _fitting([{"CPU": 4, "GPU": 2}, {"CPU": 16}], {"CPU": cpus, "GPU": gpus})


def test_jobs_that_share_a_gpu_fit_twice():
    nodes = [{"CPU": 4.0, "GPU": 2.0, "memory": 3e9}, {"CPU": 16.0, "memory": 3e9}]
    assert [_room(node, {"CPU": 1, "GPU": 0.5}) for node in nodes] == [4, 0]
    assert [_room(node, {"CPU": 1, "GPU": 0, "memory": 1e9}) for node in nodes] == [3, 3]


def test_a_node_without_the_folder_says_that_it_must_be_shared(tmp_path):
    found = run_job(tmp_path / "seed=1", ON_NODE)
    assert f"has no {tmp_path / 'seed=1' / 'job.json'}: a sweep's folder must be shared by all nodes" in str(found)


def test_a_reason_why_no_process_was_started_is_the_last_line_of_the_jobs_output(tmp_path, monkeypatch):
    ray = SimpleNamespace(wait=lambda *_, **__: (["done"], []), get=lambda _: "the reason")
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert Task(0, "reference", tmp_path / "output.log").ended() == 1
    assert (tmp_path / "output.log").read_text() == "the reason\n"


def test_a_retry_waits_for_the_lost_process_to_leave_the_folder(tmp_path, monkeypatch):
    (tmp_path / "job.json").touch()
    lock = tmp_path / ".lock"
    seen = []
    monkeypatch.setattr(on_node, "_live", lambda *_: seen.append(is_held(lock)) or 0)
    with ExitStack() as held:
        held.enter_context(locked(lock))
        threading.Timer(0.5, held.close).start()
        assert run_job(tmp_path, ON_NODE) == 0
    assert seen == [False]


def test_an_interruption_ends_the_jobs_process_by_sigterm_and_waits_for_it(tmp_path, monkeypatch):
    ready, program = tmp_path / "ready", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntrap 'sleep 0.3; exit 5' TERM\ntouch {ready}\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    (tmp_path / "job.json").touch()
    monkeypatch.setattr(sys, "executable", str(program))

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert run_job(tmp_path, ON_NODE) == 5


def test_a_job_without_gpus_sees_none_and_the_nodes_own_settings_win(monkeypatch):
    monkeypatch.delenv("SSL_RUNNER_DATA", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("SSL_RUNNER_CACHE", "here")
    how = replace(ON_NODE, threads=4, settings={"SSL_RUNNER_CACHE": "there", "SSL_RUNNER_DATA": "data"})
    found = on_node._environment(how)
    assert (found["SSL_RUNNER_CACHE"], found["SSL_RUNNER_DATA"]) == ("here", "data")
    assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"]) == ("", "4")
    assert on_node._environment(replace(how, gpus=True))["CUDA_VISIBLE_DEVICES"] == "3"
