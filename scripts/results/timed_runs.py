"""What the scripts that write tables share: how many steps fit into a time, runs that go on, results and pages.

python scripts/results/timed_runs.py SECONDS OVERRIDE ...    # prints how many steps of that run take so long
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ssl_runner.data.lock import locked

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"

WARM, TIMED = 20, 40  # steps
LATE = 1_000_000  # the step whose batch is the first: nothing grows any more


def steps_in(seconds: float, words: list[str], threads: int | None = None, processes: int = 1) -> int:
    """How many steps of this run take so long, judged by some of them after the slow first ones.

    In processes of its own: the allocator that makes steps fast keeps their memory, which the run itself will need.
    """
    command = [*_python(processes), __file__, str(seconds), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=_environment(threads))
    if done.returncode:
        raise SystemExit(done.returncode)
    return int(done.stdout.splitlines()[-1])


def _python(processes: int) -> list[str]:
    """What starts so many processes of a program."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(torchrun if processes > 1 else [])]


def _promised(seconds: float, words: list[str]) -> int | None:
    """The steps; None on other processes than the first."""
    from ssl_runner import distributed, wiring
    from ssl_runner.checks import settled
    from ssl_runner.clock import Clock
    from ssl_runner.commandline import conf_folder
    from ssl_runner.composition import Composer

    distributed.join()
    config, _ = settled(Composer(conf_folder()), [*words, "trainer.max_steps=1000"])
    run = wiring.wire(config)
    run.algorithm.train()
    began = 0.0
    for step in range(WARM + TIMED):
        if step == WARM:
            began = time.perf_counter()
        clock = Clock(step, 1000, run.seed, run.device)
        run.trainer.step(run.algorithm, run.batching.batch(LATE + step), run.optimizer, clock, measure=False)
    took = time.perf_counter() - began
    distributed.leave()
    return None if distributed.rank() else max(1, round(seconds * TIMED / took))


def run(words: list[str], folder: Path, threads: int | None = None, processes: int = 1) -> None:
    """One run, from the start or on from where it was stopped; whoever stops this script stops it, with a checkpoint.

    Raises:
        SystemExit: With the run's exit code, where it failed or was stopped.
    """
    command = [*_python(processes), "-m", "ssl_runner.train", *words, f"hydra.run.dir={folder}", "resume=auto"]
    before = signal.signal(signal.SIGTERM, _stop)
    with subprocess.Popen(command, env=_environment(threads)) as process:
        try:
            process.wait()
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):  # which a terminal sends to both
                process.terminate()
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if process.returncode:
        raise SystemExit(process.returncode)


def _stop(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _environment(threads: int | None) -> dict[str, str]:
    return dict(os.environ) if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}


def steps_of_stopped(folder: Path) -> int | None:
    """How many steps the run in a folder was to take, if there is one: going on, it keeps them."""
    stopped = folder / "config.yaml"
    return yaml.safe_load(stopped.read_text(encoding="utf-8"))["trainer"]["max_steps"] if stopped.is_file() else None


def keep(folder: Path, words: list[str], path: Path, more: dict[str, Any] | None = None) -> None:
    """Put the result of a finished run, its overrides and what else explains it, to where it is kept."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8")) | (more or {})
    result["command"] = " ".join(["ssl-train", *words])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def commit(result: dict[str, Any]) -> str:
    """Nine digits, and whether there were changes on top."""
    git = result["git"] or {"commit": "-", "dirty": False}
    return git["commit"][:9] + (" and changes" if git["dirty"] else "")


def write_between(page: Path, name: str, table: Any) -> None:
    """Put what ``table()`` gives between the marks ``<!-- name -->`` of a page, or at its end.

    Two scripts may do so at once.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    with locked(page.with_name(f".{page.name}.lock"), keep=False):
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        page.write_text(f"{before}{begin}\n{table()}\n{end}{after or chr(10)}", encoding="utf-8")


if __name__ == "__main__":
    promised = _promised(float(sys.argv[1]), sys.argv[2:])
    if promised is not None:
        print(promised)
