"""Two processes of one thread each beside one process of two, for MAML on Omniglot."""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .measure import command_cost, in_turn, median_ratio
from .row import Goal, Row, Settings

STEPS = 60
WORDS = ["experiment=maml_omniglot", "trainer.max_epochs=null", f"trainer.max_steps={STEPS}", "eval=[]", "baselines=[]"]


def images_per_second(processes: int) -> float:
    """Of a whole run on two cores, from its result."""
    start = ["-m", "ssl_runner.train"]
    if processes > 1:
        start = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", *start]
    with tempfile.TemporaryDirectory() as folder:
        words = [*WORDS, "trainer.progress=false", f"hydra.run.dir={folder}/run"]
        command_cost([sys.executable, *start, *words], {"OMP_NUM_THREADS": str(2 // processes)})
        return json.loads(Path(folder, "run", "result.json").read_text())["images_per_second"]


def rows_of_processes(settings: Settings) -> Iterator[Row]:
    """Images a second of both."""
    found = in_turn({"two": lambda: images_per_second(2), "one": lambda: images_per_second(1)}, settings.rounds)
    two, one = statistics.median(found["two"]), statistics.median(found["one"])
    ratio = median_ratio(found["two"], found["one"])
    yield Row("two processes of one thread", two, "images/s", "one of two threads", one, ratio, Goal(least=1.5))
