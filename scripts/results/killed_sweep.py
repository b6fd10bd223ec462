"""Kills a sweep at random moments and gives its command again each time: docs/results/killed_sweep.json.

    python scripts/results/killed_sweep.py [--kills 20] [--seed 0]

Twelve jobs on digits run through once. Then, in another folder, the same command is killed with its whole process group
(SIGKILL) at random moments and given again each time, the last time to its end. The script compares all metrics of the
twelve jobs bit for bit, and counts the finished steps that were run twice: those that a checkpoint held when the
process died, but that the next process did not start from.
"""

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ssl_runner.runs import provenance

WORDS = shlex.split(
    "-m experiment=simclr_digits model.encoder.width=8 batching.batch_size=64 loss.temperature=0.1,0.2,0.5 "
    "seed=0,1,2,3 trainer.max_epochs=null "
    "trainer.max_steps=1200 trainer.checkpoint_every=20 trainer.progress=false eval=[knn] baselines=[] "
    "hydra.launcher.jobs=2"
)
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
STARTING, WORKING = 6.0, 8.0  # the longest time in seconds before a kill: from the command, or from its first job


def begin(outputs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ssl_runner.train", *WORDS]
    environment = os.environ | {"SSL_RUNNER_OUTPUTS": str(outputs)}
    return subprocess.Popen(command, env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE)


def kill_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while processes_of(process.pid):  # a killed process may take a moment to go
        time.sleep(0.01)


def processes_of(group: int) -> list[str]:
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-g", str(group)], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if "Z" not in line]


def jobs(outputs: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(outputs.glob("*/sweep_*/*")) if path.is_dir()}


def saved_step(folder: Path) -> int:
    """The step of the last checkpoint that is whole; 0 without one."""
    for name in ("last.pt", "previous.pt"):
        try:
            return torch.load(folder / "checkpoints" / name, weights_only=True)["step"]
        except Exception:  # cut by the kill, or not there
            continue
    return 0


def result(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return {}


def kill_repeatedly(outputs: Path, kills: int, moments: random.Random) -> dict[str, Any]:
    """Kill the sweep that often, then let it end; returns what happened."""
    saved: dict[str, list[int]] = {}  # for each job, the checkpoint at each kill
    done: dict[str, float] = {}
    finished_again = 0
    for number in range(kills):
        process, place = begin(outputs), "the start"
        if number % 4:  # every fourth kill comes while the command starts
            place = "its first job"
            assert process.stdout is not None
            while "to run" not in (line := process.stdout.readline()) and line:
                pass
        seconds = moments.uniform(0, STARTING if number % 4 == 0 else WORKING)
        time.sleep(seconds)
        ended = process.poll() is not None
        kill_group(process) if not ended else None
        for name, folder in jobs(outputs).items():
            if result(folder).get("status") == "finished":
                written = (folder / "result.json").stat().st_mtime
                finished_again += done.setdefault(name, written) != written
            else:
                saved.setdefault(name, []).append(saved_step(folder))
        print(
            f"kill {number + 1} {seconds:.1f} s after {place}: {len(done)} of 12 done{', all' if ended else ''}",
            flush=True,
        )
    out, _ = begin(outputs).communicate()
    twice = 0
    for name, folder in jobs(outputs).items():
        starts = result(folder).get("resumed_at_steps", [])
        held = [step for step in dict.fromkeys(saved.get(name, [])) if step]
        twice += sum(step not in starts for step in held)
    return {"finished_jobs_run_again": finished_again, "checkpoints_not_resumed_from": twice, "last": out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as base:
        whole, killed = Path(base, "whole"), Path(base, "killed")
        begin(whole).communicate()
        seconds = time.perf_counter() - began
        found = kill_repeatedly(killed, asked.kills, random.Random(asked.seed))
        expected = {name: result(folder).get("metrics") for name, folder in jobs(whole).items()}
        metrics = {name: result(folder).get("metrics") for name, folder in jobs(killed).items()}
    print(found.pop("last"))
    content = {
        "command": shlex.join(["python", "scripts/results/killed_sweep.py", *sys.argv[1:]]),
        "sweep": shlex.join(["ssl-train", *WORDS]),
        "git": provenance.git(),
        "kills": asked.kills,
        "jobs": len(expected),
        "jobs_with_equal_metrics": sum(bool(value) and metrics.get(name) == value for name, value in expected.items()),
        **found,
        "seconds_without_kills": round(seconds, 1),
        "seconds": round(time.perf_counter() - began, 1),
    }
    (RESULTS / "killed_sweep.json").write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
