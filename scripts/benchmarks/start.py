"""Seconds from the command to its first step with a warm cache, beyond importing torch.

The command is `ssl-train` with all its imports; the first line of metrics.jsonl ends the time. The limit is 2
seconds.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .measure import command_cost, in_turn, seconds_of
from .row import Goal, Row, Settings

WORDS = ["trainer.max_epochs=null", "trainer.max_steps=100000", "trainer.log_every=1", "trainer.progress=false"]
WORDS += ["eval=[]", "baselines=[]"]
QUICK, FULL = ["simclr_digits"], ["simclr_digits", "simclr_mnist", "maml_omniglot"]


def first_step(experiment: str) -> float:
    """Seconds; the run is ended then."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as told:
        words = [f"experiment={experiment}", f"hydra.run.dir={folder}/run", *WORDS]
        began = time.perf_counter()
        command = [sys.executable, "-m", "ssl_runner.train", *words]
        process = subprocess.Popen(command, stdout=told, stderr=told, env=environment)
        lines = Path(folder, "run", "metrics.jsonl")
        while not (lines.exists() and lines.stat().st_size):
            if process.poll() is not None:
                told.seek(0)
                sys.exit(f"{' '.join(command)} failed:\n{told.read().decode()[-2000:]}")
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        process.kill()
        process.wait()
    return seconds


def rows(settings: Settings) -> Iterator[Row]:
    """The first step of several experiments."""
    experiments = QUICK if settings.quick else FULL
    parts = {name: partial(first_step, name) for name in experiments}
    parts["torch"] = partial(seconds_of, partial(command_cost, [sys.executable, "-c", "import torch"]))
    if not settings.quick:
        in_turn(parts, 1)  # caches are filled
    found = in_turn(parts, settings.rounds)
    torch = statistics.median(found["torch"])
    for name in experiments:
        beyond = statistics.median(own - alone for own, alone in zip(found[name], found["torch"], strict=True))
        beside = f"import torch, of {statistics.median(found[name]):.2f} s in all"
        yield Row(f"{name}: first step beyond importing torch", beyond, "s", beside, torch, goal=Goal(most=2))
