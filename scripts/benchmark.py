"""What the program costs beside its peers and limits, in one table for each topic.

    python scripts/benchmark.py                             # everything, without the peers that need an environment
    python scripts/benchmark.py --peers FOLDER              # and with them, each installed once below the folder
    python scripts/benchmark.py --only knn losses --rounds 5 --json FILE
    python scripts/benchmark.py --list

Parts take turns, many of them in processes of their own; a figure is a median, and a ratio the median of ratios
within rounds, because such timings are noisy. Growth is the slope of log cost over log size. A goal bounds the ratio
or, in a row without one, the value. Leave the machine alone meanwhile, and set OMP_NUM_THREADS to its cores. Memory
is that of Linux.
"""

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # a peer's interpreter may be told not to add it

from benchmarks.row import HEADER, Settings

NAMES = [
    *("simclr", "pipeline", "tracking", "start", "losses", "chunks"),
    *("masked", "episodes", "maml", "knn", "probe", "packed", "epochs", "report", "sweeps"),
]


def main(words: list[str] | None = None) -> None:
    form = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", default=NAMES, help=f"of {', '.join(NAMES)}")
    form.add_argument("--list", action="store_true", help="say what each is, and end")
    form.add_argument("--rounds", type=int, default=3, help="in which parts take turns")
    form.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not what it costs")
    form.add_argument("--json", type=Path, metavar="FILE", help="where rows are written, too")
    form.add_argument("--peers", type=Path, metavar="FOLDER", help="of the peers' environments; made where missing")
    form.add_argument("--part", nargs=3, metavar=("MODULE", "FUNCTION", "ARGUMENTS"), help=argparse.SUPPRESS)
    asked = form.parse_args(words)
    if asked.part:
        module, function, arguments = asked.part
        print(json.dumps(getattr(importlib.import_module(f"benchmarks.{module}"), function)(*json.loads(arguments))))
    elif asked.list:
        for name in asked.only:
            print(f"{name:>10}  {purpose(name)}")
    else:
        settings = Settings(asked.rounds, asked.quick, asked.peers and asked.peers.resolve())
        tables = {name: measured(name, settings) for name in asked.only}
        summary(tables)
        if asked.json:
            write(asked.json, settings, tables)


def purpose(name: str) -> str:
    """The first line of a module's docstring."""
    return (importlib.import_module(f"benchmarks.{name}").__doc__ or "").splitlines()[0]


def measured(name: str, settings: Settings) -> dict[str, Any]:
    """Print a table row by row as it is measured; returns rows and seconds."""
    print(f"\n{name}: {purpose(name)}\n\n{HEADER}", flush=True)
    began, rows = time.perf_counter(), []
    for row in importlib.import_module(f"benchmarks.{name}").rows(settings):
        print(row, flush=True)
        rows.append(row)
    seconds = time.perf_counter() - began
    print(f"\n{settings.rounds} rounds, {seconds:.0f} seconds", flush=True)
    return {"seconds": round(seconds, 1), "rows": [row.record() for row in rows]}


def summary(tables: dict[str, Any]) -> None:
    """Print how many goals were met, and which were not."""
    judged = [(name, row) for name, table in tables.items() for row in table["rows"] if row["met"] is not None]
    missed = [f"{name}: {row['what']}" for name, row in judged if not row["met"]]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} goals are met", *missed, sep="\n- ")


def write(file: Path, settings: Settings, tables: dict[str, Any]) -> None:
    """Write all rows, and what they were measured with."""
    from ssl_runner.runs import provenance

    content = {
        "command": provenance.command(),
        "git": provenance.git(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "rounds": settings.rounds,
        "tables": tables,
    }
    file.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
