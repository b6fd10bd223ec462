"""A run on two processes equals the run on one."""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import children
import deeds
import pytest
import torch
from worker import cases, measure

from ssl_runner.errors import ProcessLost
from ssl_runner.runtime.signals import interrupted_by_sigterm, stop_signals

SMALL = [
    "experiment=simclr_digits",
    "dataset=digits",
    "dataset.size=16",
    "loss.temperature=1.0",  # the colder, the more a rounding error grows in eight steps
    "model.encoder.width=8",
    "model.head.hidden_features=16",
    "batching.batch_size=64",
    "optimizer=sgd",  # Adam makes steps of rounding errors where a gradient is all but 0
    "trainer.threads=1",
    "trainer.max_epochs=null",
    "trainer.max_steps=8",
    "trainer.log_every=1",
    "trainer.checkpoint_every=4",
    "trainer.progress=false",
    "eval=[knn]",
    "baselines=[]",
]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"} | more


def torchrun(logs: Path, *overrides: str) -> children.Child:
    """``torchrun --nproc-per-node=2 -m ssl_runner.train OVERRIDES``; its two processes are fresh ones."""
    words = [
        "--nproc-per-node=2",
        "--master-addr=127.0.0.1",
        f"--master-port={children.port()}",
        "-m",
        "ssl_runner.train",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return children.Child(logs, children.type_in_torchrun, [*words, *overrides])


def together(logs: Path, *words: str) -> list[children.Ended]:
    """``ssl-train WORDS`` on both processes."""
    return [child.ended() for child in children.pair(logs, children.type_in, list(words))]


@pytest.fixture(scope="module")
def differences(tmp_path_factory) -> dict[str, dict[str, float]]:
    """Differences between two processes and one, measured by the processes themselves."""
    out = tmp_path_factory.mktemp("two") / "differences.json"
    ended = [child.ended() for child in children.pair(out.parent, measure, out)]
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    return json.loads(out.read_text())


@pytest.mark.parametrize("case", cases())
def test_gradients_state_and_metrics_of_two_processes_equal_those_of_one(case, differences):
    """The state includes queues, centers, teachers and running statistics."""
    assert differences[case]["gradient"] < 1e-10
    assert differences[case]["state"] < 1e-10
    assert differences[case]["metric"] < 1e-5  # logged in float32


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return {name: value for name, value in state["algorithm"].items() if value.is_floating_point()}


METHODS = {
    "simclr": [],
    "simclr, maps channel by channel": ["trainer.channels_last=false"],
    "moco": ["algorithm=momentum", "loss=info_nce", "algorithm.queue_size=96", "algorithm.batch_norm_groups=4"],
}


# imports what an optimizer's first step does; lists the threads left at exit, after all later handlers have run
PARTING = """
import atexit, pathlib, torch
def left():
    names = {path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")}
    print(sorted(name for name in names if "gloo" in name))
atexit.register(left)
from ssl_runner.runtime import collectives, process_group
process_group.init()
import torch._dynamo
collectives.total(torch.ones(2))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("end", ["process_group.shutdown()", "raise SystemExit(0)"])
def test_gloo_leaves_no_thread_that_would_abort_the_interpreter_at_exit(end):
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": children.port()}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PARTING + end],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(RANK=rank, LOCAL_RANK=rank, **meeting),
        )
        for rank in ("0", "1")
    ]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["[]\n", "[]\n"]
    assert [process.returncode for process in processes] == [0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_weights_after_8_steps_equal_those_of_one_process_and_only_process_0_prints(method, tmp_path):
    words = [*SMALL, *METHODS[method]]
    one = children.command(tmp_path / "logs", [*words, f"hydra.run.dir={tmp_path / 'one'}"])
    two = together(tmp_path / "logs", *words, f"hydra.run.dir={tmp_path / 'two'}")
    assert (one.code, two[0].code, two[1].code) == (0, 0, 0), one.err + two[0].err
    expected, found = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    assert two[0].out.count("accuracy on test") == 1
    assert two[1].out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "one", "two"]
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(9))
    assert json.loads((tmp_path / "two" / "result.json").read_text())["hardware"]["processes"] == 2


@pytest.mark.parametrize(("rank", "processes"), [(0, 2), (1, 2), (0, 1)])
def test_only_process_0_of_several_is_not_ended_by_torchrun_while_it_reports_a_lost_one(rank, processes, monkeypatch):
    for name, value in {"RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(ProcessLost), interrupted_by_sigterm(), stop_signals():
            raise ProcessLost("connection closed by peer")
        found = signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == (signal.SIG_IGN if (rank, processes) == (0, 2) else signal.SIG_DFL)


def test_a_lost_process_ends_the_run_with_a_message_and_a_checkpoint_to_resume_from(tmp_path):
    folder = tmp_path / "run"
    words = [*SMALL, "trainer.max_steps=100000", f"hydra.run.dir={folder}"]
    running = torchrun(tmp_path / "torchrun", *words)
    last = folder / "checkpoints" / "last.pt"
    try:
        children.until(lambda: last.exists() or not running.process.is_alive())
        (victim,) = [pid for pid in started_by(running.process.pid) if rank_of(pid) == "1"]
        os.kill(victim, signal.SIGKILL)
        ended = running.ended()
    finally:
        if running.process.is_alive():
            running.signal(signal.SIGTERM)
    printed = ended.err
    assert ended.code == 1, printed
    assert "another process of this run is gone at step" in printed, printed
    assert f"-m ssl_runner.train resume={folder}" in printed
    step = torch.load(last, weights_only=True)["step"]
    refused = children.command(tmp_path / "logs", [f"resume={folder}"])
    assert refused.code == 2
    assert "was written by 2 processes, this run has 1" in refused.err
    assert "Traceback" not in refused.err
    assert step % 4 == 0


def started_by(parent: int) -> list[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in found]


def rank_of(pid: int) -> str | None:
    entries = dict(
        entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry
    )
    return entries.get("RANK")


def test_a_resumed_run_of_two_processes_equals_the_uninterrupted_one(tmp_path):
    words = [*SMALL, "algorithm=momentum", "loss=info_nce", "algorithm.queue_size=96"]
    whole = together(tmp_path / "logs", *words, f"hydra.run.dir={tmp_path / 'whole'}")
    folder = tmp_path / "cut"
    running = children.pair(tmp_path / "cut.logs", children.type_in, [*words, f"hydra.run.dir={folder}"])
    children.until((folder / "checkpoints" / "last.pt").exists)
    for child in running:
        child.signal(signal.SIGKILL)
    assert [child.ended().code for child in running] == [-signal.SIGKILL] * 2
    again = together(tmp_path / "logs", f"resume={folder}")
    assert [one.code for one in (*whole, *again)] == [0] * 4, whole[0].err + again[0].err
    expected, found = weights(tmp_path / "whole"), weights(folder)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batching.batch_size=33"], "batching.batch_size=33, but 2 processes share a batch evenly"),
        (["-m", "seed=1,2"], "start torchrun once for each job"),
    ],
)
def test_a_mistake_is_reported_once(words, message, tmp_path):
    words = [*words, f"hydra.run.dir={tmp_path / 'run'}"]
    first, second = children.pair(tmp_path / "logs", children.type_in, words)
    ended = first.ended()
    second.signal(signal.SIGTERM)  # as torchrun does, which it leaves to the other one
    printed = ended.err + second.ended().err
    assert ended.code == 2, printed
    assert len([line for line in printed.splitlines() if message in line]) == 1, printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("silent", "shard"), [(0, False), (1, False), (1, True)])
def test_a_process_that_does_not_answer_is_named_and_ends_the_run_after_the_timeout(silent, shard, tmp_path):
    folder = tmp_path / "run"
    words = [*SMALL, "trainer.checkpoint_every=2", "trainer.timeout=8", f"hydra.run.dir={folder}"]
    words += ["trainer.shard=true"] if shard else []
    deed = functools.partial(deeds.one_stops_at_step, 3, silent)
    processes = children.pair(tmp_path / "logs", children.type_in, words, deed=deed)
    try:
        ended = processes[1 - silent].ended()
    finally:
        processes[silent].signal(signal.SIGKILL)
        processes[silent].ended()
    printed = ended.err
    assert ended.code == 1, printed
    assert "Traceback" not in printed
    warned = f"process {silent} has not answered since step 4, for 4 s"
    assert printed.count(warned) == 1
    assert (folder / "train.log").read_text().count(warned) == 1
    assert f"another process of this run is gone at step 4 (process {silent} has not answered for 8 s" in printed
    assert f"torchrun --nproc-per-node=2 -m ssl_runner.train resume={folder}" in printed
    if silent == 1:
        result = json.loads((folder / "result.json").read_text())
        assert (result["status"], result["step"]) == ("failed", 3)
        assert "process 1 has not answered" in result["reason"]


def test_a_busy_process_does_not_count_as_silent(tmp_path):
    ended = [child.ended() for child in children.pair(tmp_path, deeds.first_is_busy)]
    assert [(one.out, one.err) for one in ended] == [("True\n", "")] * 2
