"""Seconds of twelve jobs of a sweep, two at a time, beside Hydra's launchers; a thousand jobs checked and read.

All run the same command in turns, each in a fresh folder: ours and Hydra's joblib launcher two jobs at a time, Hydra's
own one after the other. Also measured: the command given again when all jobs are done.
"""

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .measure import command_cost, in_turn, median_ratio, seconds_of
from .peers import name, plugins
from .row import Goal, Row, Settings

WORDS = shlex.split(
    "-m experiment=simclr_digits model.encoder.width=16 loss.temperature=0.1,0.2,0.5 seed=0,1,2,3 "
    "trainer.max_epochs=null trainer.max_steps=150 trainer.progress=false eval=[knn] baselines=[]"
)
JOBS = ["-m", "experiment=simclr_digits", "loss.temperature=0.05,0.1,0.2,0.5,1", "optimizer.lr=0.001,0.002"]


def sweep(outputs: Path, *words: str, path: str = "") -> float:
    """How long the sweep takes, from the first import to the end; `path` is put behind the Python path."""
    command = [sys.executable, "-m", "ssl_runner.train", *WORDS, *words]
    found = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), path) if part)
    return command_cost(command, {"SSL_RUNNER_OUTPUTS": str(outputs), "PYTHONPATH": found})["seconds"]


def written_and_read(jobs: int) -> tuple[float, float]:
    """How long jobs take to be checked and written, when the sweep is stopped, and their manifest to be read."""
    from ssl_runner.sweeps import manifest

    with tempfile.TemporaryDirectory() as base:
        environment = os.environ | {"SSL_RUNNER_OUTPUTS": base}
        began = time.perf_counter()
        command = [sys.executable, "-m", "ssl_runner.train", *JOBS, f"seed=range(0,{jobs // 10})"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (found := list(Path(base).glob("*/sweep_*/manifest.json"))):
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} failed")
            time.sleep(0.01)
        written = time.perf_counter() - began
        process.terminate()
        process.wait()
        read = seconds_of(lambda: manifest.read(found[0].parent))
    return written, read


def all_ways(joblib: str | None) -> dict[str, float]:
    """Seconds of the sweep by our launcher, given again, and by Hydra's."""
    with tempfile.TemporaryDirectory() as base:
        ours, old = Path(base, "ours"), Path(base, "old")
        found = {"ours": sweep(ours, "hydra.launcher.jobs=2"), "again": sweep(ours, "hydra.launcher.jobs=2")}
        if joblib:
            words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
            found["joblib"] = sweep(Path(base, "joblib"), *words, path=joblib)
        return found | {"hydra": sweep(old, "hydra/launcher=basic")}


def rows(settings: Settings) -> Iterator[Row]:
    """Twelve jobs beside Hydra's launchers, and the cost of many jobs."""
    if not settings.quick:
        joblib = plugins(settings, "joblib")
        results = in_turn({"all": lambda: all_ways(joblib)}, settings.rounds)["all"]
        found = {way: [result[way] for result in results] for way in results[0]}
        own, goals = statistics.median(found["ours"]), {"joblib": Goal(most=1), "hydra": Goal(most=0.8)}
        for way in [way for way in goals if way in found]:
            beside = "Hydra, one after the other" if way == "hydra" else name(way)
            other, ratio = statistics.median(found[way]), median_ratio(found["ours"], found[way])
            yield Row("twelve jobs, two at a time / the peer's", own, "s", beside, other, ratio, goals[way])
        yield Row("twelve finished jobs again", statistics.median(found["again"]), "s", goal=Goal(most=10))
    jobs = 10 if settings.quick else 1000
    each = [written_and_read(jobs) for _ in range(settings.rounds)]
    written, read = (statistics.median(values) for values in zip(*each, strict=True))
    yield Row(f"{jobs:,} jobs checked and written", written, "s", goal=Goal(most=10))
    yield Row(f"manifest of {jobs:,} jobs read", 1000 * read, "ms", goal=Goal(most=50))
