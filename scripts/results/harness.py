"""What the scripts that write tables share: a command line, runs that go on, results as JSON, and tables in Markdown.

A row of a table is a run of `ssl-train` in a folder below outputs/. Its result.json is kept, with the command that made
it, below docs/results; from what is kept, the table is written anew at any time.
"""

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from ssl_runner.runtime.file_lock import locked

Key = TypeVar("Key")

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
BASELINES = {"untrained": "untrained encoder", "raw_pixels": "raw pixels"}
TRIAL = ["trainer.max_epochs=null", "trainer.max_steps=2", "trainer.diagnostics_every=null", "eval=[]", "baselines=[]"]
OPTIONS: dict[str, dict[str, Any]] = {
    "--steps": {"type": int, "help": "of training, instead of what the first ones promise for the minutes"},
    "--threads": {"type": int, "help": "of the CPU, for each run"},
    "--results": {"type": Path, "default": RESULTS, "help": "where the page and the results go"},
    "--again": {"action": "store_true", "help": "run anew what has a result, or was stopped"},
    "--trial": {"action": "store_true", "help": "two steps of each, nothing evaluated or kept"},
    "--table": {"action": "store_true", "help": "only write the table anew"},
}


# The command line


def command_line(description: str | None, *options: str) -> argparse.ArgumentParser:
    """A parser with the script's own text, these of `OPTIONS`, and --table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in (*options, "--table"):
        parser.add_argument(option, **OPTIONS[option])
    return parser


def add_names(parser: argparse.ArgumentParser, rows: Collection[str]) -> None:
    """Rows as arguments, any number of them."""
    # argparse holds the default against the choices, too
    parser.add_argument("names", nargs="*", choices=[[], *rows], metavar="NAME", help=", ".join(rows))


def make(rows: Iterable[Key], make_one: Callable[[Key], None], write_page: Callable[[], None]) -> None:
    """Make rows one after the other. The page is written after each, and where there are none."""
    for row in rows:
        make_one(row)
        write_page()
    write_page()


def is_kept(name: str, path: Path) -> bool:
    """Whether a row has a result. If so, a line says how to run it anew."""
    if path.is_file():
        print(f"{name}: {path} is there; --again runs it anew", flush=True)
    return path.is_file()


# Configs, for which ssl_runner is imported late: torch takes seconds, and a table needs none


def composed(words: list[str]) -> dict[str, Any]:
    """The whole config that overrides make."""
    from ssl_runner.cli.compose import Composer
    from ssl_runner.cli.search_path import conf_folder
    from ssl_runner.cli.validate import checked_config

    return checked_config(Composer(conf_folder()), words)[0]


def has_experiment(name: str) -> bool:
    from ssl_runner.cli.search_path import conf_folder

    return (conf_folder() / "experiment" / f"{name}.yaml").is_file()


def spanning(words: list[str], steps: int) -> list[str]:
    """Overrides for so many steps; a decay by steps is stretched or shortened with them.

    Of the words, the first is the recipe, whose own steps and decay are the measure.
    """
    recipe = composed(words[:1])
    most, every = recipe["trainer"]["max_steps"], recipe["scheduler"].get("every")
    decay = [f"scheduler.every={max(1, round(every * steps / most))}"] if most and every else []
    return [f"trainer.max_steps={steps}", *decay]


# Runs


def python(processes: int) -> list[str]:
    """What starts so many processes of a program."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(torchrun if processes > 1 else [])]


def environment(threads: int | None) -> dict[str, str]:
    return dict(os.environ) if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}


def run(words: list[str], folder: Path, threads: int | None = None, processes: int = 1) -> None:
    """One run, from the start or on from where it was stopped; whoever stops this script stops it, with a checkpoint.

    Raises:
        SystemExit: With the run's exit code, where it failed or was stopped.
    """
    command = [*python(processes), "-m", "ssl_runner.train", *words, f"hydra.run.dir={folder}", "resume=auto"]
    before = signal.signal(signal.SIGTERM, _stop)
    with subprocess.Popen(command, env=environment(threads)) as process:
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


def try_out(words: list[str], name: str, threads: int | None = None, processes: int = 1) -> None:
    """Two steps of a run, in a folder of their own that goes again."""
    folder = Path("outputs") / "trial" / name
    shutil.rmtree(folder, ignore_errors=True)
    run([*words, *TRIAL], folder, threads, processes)
    shutil.rmtree(folder)


def config_of(folder: Path) -> dict[str, Any]:
    """The config of the run in a folder."""
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def steps_of_stopped(folder: Path) -> int | None:
    """How many steps the run in a folder was to take, if there is one: going on, it keeps them."""
    return config_of(folder)["trainer"]["max_steps"] if (folder / "config.yaml").is_file() else None


# Results


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_those_there(paths: Mapping[Key, Path]) -> dict[Key, dict[str, Any]]:
    """The results that there are, in the order of the paths."""
    return {key: read(path) for key, path in paths.items() if path.is_file()}


def command(words: Sequence[str]) -> str:
    return " ".join(["ssl-train", *words])


def keep(folder: Path, words: list[str], path: Path, more: Mapping[str, Any] | None = None) -> None:
    """Put the result of a finished run, its overrides and what else explains it, to where it is kept."""
    write(path, read(folder / "result.json") | dict(more or {}) | {"command": command(words)})


# Cells


def commit(result: dict[str, Any]) -> str:
    """Nine digits, and whether there were changes on top."""
    git = result["git"] or {"commit": "-", "dirty": False}
    return git["commit"][:9] + (" and changes" if git["dirty"] else "")


def minutes(*results: dict[str, Any]) -> str:
    """Of training, in the mean."""
    return f"{statistics.mean(result['training_seconds'] for result in results) / 60:.1f}"


def accuracy(metrics: Mapping[str, float], key: str) -> str:
    """A score of a key such as few_shot/5w1s, with its interval where it has one; a dash where there is no score."""
    if f"{key}/top1" not in metrics:
        return "-"
    half = metrics.get(f"{key}/ci95")
    return f"{metrics[f'{key}/top1']:.2%}" + ("" if half is None else f" ± {half:.2%}")


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean, and half of Student's 95% interval of it (infinite for one value)."""
    from scipy.stats import t as student  # takes seconds to import

    n = len(differences)
    if n < 2:
        return differences[0], math.inf
    return statistics.mean(differences), float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)


# Pages


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    """A table. None stands for a cell that does not apply; a row may end before the last column."""
    padded = ([*row, *[None] * (len(columns) - len(row))] for row in rows)
    return "\n".join([_line(columns), _line(["---"] * len(columns)), *map(_line, padded)])


def _line(cells: Iterable[str | None]) -> str:
    return "|" + "".join(" |" if cell is None else f" {cell} |" for cell in cells)


def write_between(page: Path, name: str, table: Callable[[], str]) -> None:
    """Put what ``table()`` gives between the marks ``<!-- name -->`` of a page, or at its end.

    Two scripts may do so at once.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    with locked(page.with_name(f".{page.name}.lock"), keep=False):
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        page.write_text(f"{before}{begin}\n{table()}\n{end}{after or chr(10)}", encoding="utf-8")
