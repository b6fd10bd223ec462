"""Twelve jobs of a sweep, two at a time by our launcher and one after the other by Hydra's: docs/results/sweeps.json.

    python scripts/benchmarks/sweeps.py [--rounds 3]

Both run the same command in turns, each in a fresh folder. Also measured: a thousand jobs, checked and written; reading
their manifest; and the command given again when all jobs are done.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ssl_runner.runs import provenance
from ssl_runner.sweeps import manifest

WORDS = shlex.split(
    "-m experiment=simclr_digits model.encoder.width=16 loss.temperature=0.1,0.2,0.5 seed=0,1,2,3 "
    "trainer.max_epochs=null trainer.max_steps=150 trainer.progress=false eval=[knn] baselines=[]"
)
THOUSAND = shlex.split(
    "-m experiment=simclr_digits loss.temperature=0.05,0.1,0.2,0.5,1 optimizer.lr=0.001,0.002 seed=range(0,100)"
)
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def seconds(outputs: Path, *words: str, code: int = 0) -> float:
    """How long a command takes, from the first import to the end."""
    environment = os.environ | {"SSL_RUNNER_OUTPUTS": str(outputs)}
    began = time.perf_counter()
    command = [sys.executable, "-m", "ssl_runner.train", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return time.perf_counter() - began


def until_written(outputs: Path) -> float:
    """How long a thousand jobs take to be checked and written; the sweep is stopped then."""
    environment = os.environ | {"SSL_RUNNER_OUTPUTS": str(outputs)}
    began = time.perf_counter()
    command = [sys.executable, "-m", "ssl_runner.train", *THOUSAND]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(outputs.glob("*/sweep_*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.01)
    found = time.perf_counter() - began
    process.terminate()
    process.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    ours, old, again, written, read = [], [], [], [], []
    for number in range(asked.rounds):
        with tempfile.TemporaryDirectory() as base:
            ours.append(seconds(Path(base, "ours"), *WORDS, "hydra.launcher.jobs=2"))
            again.append(seconds(Path(base, "ours"), *WORDS, "hydra.launcher.jobs=2"))
            old.append(seconds(Path(base, "old"), *WORDS, "hydra/launcher=basic"))
            written.append(until_written(Path(base, "thousand")))
            (folder,) = Path(base, "thousand").glob("*/sweep_*")
            began = time.perf_counter()
            assert len(manifest.read(folder).jobs) == 1000
            read.append(time.perf_counter() - began)
        print(f"round {number + 1}: ours {ours[-1]:.1f} s, Hydra's {old[-1]:.1f} s", flush=True)
    content = {
        "command": shlex.join(["python", "scripts/benchmarks/sweeps.py", *sys.argv[1:]]),
        "sweep": shlex.join(["ssl-train", *WORDS]),
        "git": provenance.git(),
        "cores": os.cpu_count(),
        "rounds": asked.rounds,
        "twelve_jobs_two_at_a_time_s": ours,
        "twelve_jobs_one_after_the_other_s": old,
        "median_ratio": statistics.median(a / b for a, b in zip(ours, old, strict=True)),
        "twelve_finished_jobs_again_s": again,
        "thousand_jobs_checked_and_written_s": written,
        "manifest_of_a_thousand_read_s": read,
    }
    (RESULTS / "sweeps.json").write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
