"""Runs a run again and compares the results."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_runner.cli.app import App, run_in, unique
from ssl_runner.cli.initial import settled
from ssl_runner.cli.resume import resumed_config
from ssl_runner.errors import ConfigError
from ssl_runner.runs import run_folder
from ssl_runner.runs.result import FILE
from ssl_runner.runtime import launch_environment

# half a percentage point: the difference that other hardware, threads or versions may make
TOLERANCE = 0.005


def reproduce(app: App, original: Path, overrides: Sequence[str], multirun: bool) -> int:
    """Run a run again in a new folder and compare the results. Returns the exit code: 1 if they differ."""
    config = settled(resumed_config(original, overrides, "reproduce", multirun))
    before = finished(original)
    prepared = app.prepare(config)
    if config.get("dry_run"):
        app.rehearse(prepared)
        return 0
    folder = Path(os.environ.get("SSL_RUNNER_OUTPUTS", "outputs")) / config["name"] / unique()
    after = run_in(folder, app, config, prepared)
    if launch_environment.rank() > 0:
        return 0
    text, same = compare(original, before, after)
    print(text)
    return 0 if same else 1


def finished(folder: Path) -> dict[str, Any]:
    """The result of a run.

    Raises:
        ConfigError: There is no result, or the run did not finish.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        status = run_folder.status(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"reproduce={folder}: {folder / FILE} cannot be read ({error}), so there is nothing to compare"]
        ) from None
    if status != run_folder.FINISHED:
        remedy = run_folder.remedy(folder, status)
        raise ConfigError([f"reproduce={folder}: the run ({status}) did not finish; {remedy}"])
    return content


def compare(original: Path, before: dict[str, Any], after: dict[str, Any]) -> tuple[str, bool]:
    """A table of both runs' metrics and other differences, and whether the metrics agree within the tolerance."""
    old, new = before["metrics"], after["metrics"]
    keys = list(dict.fromkeys([*old, *new]))
    width = max(map(len, keys), default=0)
    lines = [f"reproduction of {original}", f"{'':{width}}      before       after  difference"]
    agree = exact = True
    for key in keys:
        first, second = old.get(key), new.get(key)
        if first is None:  # the runner did not compute it at the time, so this says nothing about the run
            lines.append(f"{key:{width}}  {_cell(first)}  {_cell(second)}  new")
            continue
        if second is None:
            lines.append(f"{key:{width}}  {_cell(first)}  {_cell(second)}  missing")
            agree = exact = False
            continue
        exact = exact and first == second
        agree = agree and abs(first - second) <= TOLERANCE
        lines.append(f"{key:{width}}  {_cell(first)}  {_cell(second)}  {second - first:+10.6f}")
    lines += [f"{name}: {one} -> {other}" for name, one, other in _circumstances(before, after) if one != other]
    same = "identical to the last bit" if exact else f"the same within {TOLERANCE}" if agree else "NOT the same"
    return "\n".join([*lines, same]), agree


def _cell(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:10.6f}"


def _circumstances(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, earlier and later value of whatever may explain a difference."""
    one, other = before.get("versions", {}), after.get("versions", {})
    found = [(f"version of {name}", one.get(name), other.get(name)) for name in sorted({*one, *other})]
    one, other = before.get("hardware", {}), after.get("hardware", {})
    found += [(name, one.get(name), other.get(name)) for name in ("device", "name", "threads", "cpu_capability")]
    found += [("data", before["dataset"]["fingerprint"], after["dataset"]["fingerprint"])]
    return [*found, ("git", before.get("git"), after.get("git"))]
