"""A sweep on a real SLURM: the running cluster, or one that a script of ours sets up on this machine."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import children
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "slurm" / "one_machine.sh"
SHORT = [
    "model.encoder.width=4",
    "batching.batch_size=32",
    "trainer.max_epochs=null",
    "trainer.max_steps=200",
    "trainer.checkpoint_every=20",
    "trainer.log_every=20",
    "trainer.progress=false",
    "eval=[knn]",
    "baselines=[]",
]
SLURM = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_job=0", "hydra.launcher.cpus_per_job=1"]
LOCAL = ["hydra/launcher=local", "hydra.launcher.jobs=2", "hydra.launcher.threads=1"]
SEEDS = "seed=1,2,3,4"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment of commands that reach a cluster."""
    pytest.importorskip("submitit", reason="SLURM is not installed here")
    base = {**os.environ, "PYTHONPATH": str(ROOT)}
    if shutil.which("sinfo") and not subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        yield base
        return
    programs = ("munged", "slurmctld", "slurmd", "srun")
    if os.geteuid() != 0 or not all(map(shutil.which, programs)):
        pytest.skip("SLURM is not installed here")
    folder = tmp_path_factory.mktemp("slurm")
    # daemons keep the streams they get
    done = subprocess.run([SCRIPT, "start", folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert done.returncode == 0, [path.read_text() for path in folder.glob("*.log")]
        yield base | {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture
def environment(cluster, tmp_path) -> dict[str, str]:
    return cluster | {"SSL_RUNNER_OUTPUTS": str(tmp_path / "outputs"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def typed(environment, tmp_path, monkeypatch) -> Callable[..., str]:
    """Runs ``ssl-train -m WORDS`` and returns what it printed."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> str:
        done = children.command(tmp_path / "logs", ["-m", *SHORT, *words])
        assert done.code == 0, done.out + done.err
        return done.out

    return run


def slurm(environment: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, f"not within 300 s: {what}"
        time.sleep(0.05)


def metrics(folder: Path) -> dict[str, dict[str, float]]:
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}
    return {name: one["metrics"] for name, one in found.items() if one["status"] == "finished"}


def test_a_sweep_survives_a_requeue_the_time_limit_and_a_cancellation(
    environment, typed, tmp_path, data_root, monkeypatch
):
    printed = typed(SEEDS, *SLURM)
    (folder,) = (tmp_path / "outputs" / "simclr_digits").iterdir()
    (submission,) = json.loads((folder / "slurm.json").read_text())["submissions"]
    number, names = submission["id"], submission["jobs"]
    assert names == [f"seed={seed}" for seed in range(1, 5)]
    assert "missing  4, submitted now" in printed and f"submitted  as {number};" in printed

    def left(task: str) -> list[str]:
        asked = ["squeue", "--noheader", f"--user={os.getuid()}", "--array", "--format=%i"]
        return [one for one in slurm(environment, *asked).split() if one == task or one.startswith(f"{task}_")]

    def disturb(place: int, *words: str) -> None:
        wait_for((folder / names[place] / "checkpoints" / "last.pt").exists, f"a checkpoint of {names[place]}")
        slurm(environment, *words)

    disturb(1, "scancel", "--signal=USR2", f"{number}_1.0")  # as at the time limit
    disturb(0, "scontrol", "requeue", f"{number}_0")
    disturb(2, "scancel", f"{number}_2")
    wait_for(lambda: not left(f"{number}_2"), "the end of the job that was cancelled")
    assert json.loads((folder / "seed=3" / "result.json").read_text())["status"] == "interrupted"

    printed = typed(SEEDS, *SLURM)  # while others wait and run
    assert "cancelled  1, submitted now" in printed
    first, second = json.loads((folder / "slurm.json").read_text())["submissions"]
    assert first == submission and second["jobs"] == ["seed=3"]
    wait_for(lambda: not left(number) and not left(second["id"]), "an empty queue")
    for name in names[:3]:
        (step,) = json.loads((folder / name / "result.json").read_text())["resumed_at_steps"]
        assert 0 < step < 200

    monkeypatch.setenv("SSL_RUNNER_OUTPUTS", str(tmp_path / "local"))
    typed(SEEDS, *LOCAL)
    (other,) = (tmp_path / "local" / "simclr_digits").iterdir()
    assert len(metrics(other)) == 4
    assert metrics(folder) == metrics(other)
