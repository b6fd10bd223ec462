"""Measuring: parts in turn or in processes of their own, ratios within rounds, memory, and how a cost grows."""

import ctypes
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .row import Settings

Result = TypeVar("Result")
SCRIPTS = Path(__file__).resolve().parents[1]


def in_turn(parts: Mapping[str, Callable[[], Result]], rounds: int) -> dict[str, list[Result]]:
    """What each part returned in each round; every second round goes through them backwards."""
    found: dict[str, list[Result]] = {name: [] for name in parts}
    for number in range(rounds):
        for name in reversed(list(parts)) if number % 2 else parts:
            found[name].append(parts[name]())
    return found


def median_ratio(own: Iterable[float], other: Iterable[float]) -> float:
    """The median of own / other, round by round: what slows a round down slows both."""
    return statistics.median(a / b for a, b in zip(own, other, strict=True))


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


def seconds_of(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def repeated(call: Callable[[], Any], times: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    return statistics.median([seconds_of(call) for _ in range(times + 1)][1:])


def apart(settings: Settings, part: Callable[..., Result], *arguments: Any, python: str = sys.executable) -> Result:
    """What a part returns in a process of its own, in this or a peer's interpreter; quick, ours run in this process.

    The part is a function of a module of this package; arguments and result are plain data.
    """
    if settings.quick and python == sys.executable:
        return part(*arguments)
    words = [part.__module__.rpartition(".")[2], part.__name__, json.dumps(arguments)]
    command = [python, str(SCRIPTS / "benchmark.py"), "--part", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed in {python}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def resident(kind: str = "VmRSS") -> float:
    """MB of this process now (VmRSS), or at most since the peak was reset (VmHWM); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{kind}:"))


def grown(call: Callable[[], Any]) -> float:
    """MB by which a call makes this process grow at most; Linux."""
    gc.collect()
    # what came before has left pages, free but resident, in which the call would hide; and a peak of its own
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    call()
    return resident("VmHWM") - before


def command_cost(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Seconds, seconds of the processor and peak memory in MB of a command, from its start to its end."""
    # compiled modules are kept, as they are by default
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, env=kept | dict(environment or {}))
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            told.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{told.read().decode()[-2000:]}")
    most = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return {"seconds": seconds, "processor": usage.ru_utime + usage.ru_stime, "mb": most}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost over log size by least squares: 1 for a linear cost, 2 for a quadratic one."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


@functools.cache
def _composer() -> Any:
    from ssl_runner.cli.compose import Composer
    from ssl_runner.cli.search_path import conf_folder

    return Composer(conf_folder())


def checked(overrides: list[str]) -> dict[str, Any]:
    """The checked config of a run of ours."""
    from ssl_runner.cli import validate

    return validate.checked_config(_composer(), overrides)[0]


def wired(overrides: Sequence[str]) -> Any:
    """A run of ours, ready to train; quick parts that ask for the same one in this process share it."""
    return _wired(tuple(overrides))


@functools.lru_cache(maxsize=1)
def _wired(overrides: tuple[str, ...]) -> Any:
    from ssl_runner.wiring import wire

    return wire.wire(checked(list(overrides)))
