"""Finds run folders below paths and reads their results."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssl_runner.comparison.configs import Configs
from ssl_runner.comparison.report import ENCODER, Run
from ssl_runner.errors import ConfigError, InvalidValue, printable
from ssl_runner.runs import evaluations, run_folder
from ssl_runner.runs.figures import VALIDATION
from ssl_runner.runtime.file_lock import is_held

CONFIG, SWEEP_LOCK = "config.yaml", ".sweep.lock"
_LOGGED = "eval/validation/"  # the same in metrics.jsonl


@dataclass
class Found:
    """What lies below the paths.

    Attributes:
        runs: With a result, in the order of their folders.
        left_out: Folders without one, and why.
        ended: When the result of each run was written, seconds since 1970; by folder.
        sweeping: Whether a sweep below the paths is running.
    """

    runs: list[Run] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    ended: dict[Path, float] = field(default_factory=dict)
    sweeping: bool = False


def read(paths: Sequence[Path], validation: bool = False) -> Found:
    """Read every run below the paths; a run that cannot be read is left out and named.

    Args:
        paths: Run folders, or folders above them.
        validation: Whether to read validation figures from metrics.jsonl too, as ``validation/knn/top1``.

    Raises:
        ConfigError: A path is missing or is no folder.
    """
    missing = [path for path in paths if not path.is_dir()]
    if missing:
        raise ConfigError([_no_folder(path) for path in missing])
    found, configs, seen = Found(), Configs(), set()
    for path in paths:
        any_run, left = False, len(found.left_out)
        for folder, is_run in _run_folders(path, found):
            any_run = True
            place = os.path.realpath(folder)
            if place not in seen:
                seen.add(place)
                if is_run:
                    _take(Path(folder), configs, found, validation)
                else:
                    _take_encoder(Path(folder), found)
        if not any_run and len(found.left_out) == left:
            found.left_out.append((path, "there is no run in it"))
    return found


def _no_folder(path: Path) -> str:
    state = "is a file" if path.exists() else "does not exist"
    return f"{printable(str(path))} {state}; give run folders, or folders above them, such as outputs"


def _run_folders(top: str | Path, found: Found) -> Iterator[tuple[str, bool]]:
    """Folders of runs (True) and of evaluations of encoders without a run (False), in the order of their names.

    Neither holds another run.
    """
    try:
        entries = sorted(os.scandir(top), key=lambda entry: entry.name)
    except OSError as error:
        found.left_out.append((Path(top), f"cannot be opened: {error.strerror}"))
        return
    names = {entry.name for entry in entries}
    if run_folder.RESULT in names or CONFIG in names:
        yield str(top), True
        return
    if Path(top).parent.name == evaluations.FOLDER and any(name.endswith(evaluations.ANSWERS) for name in names):
        yield str(top), False
        return
    if SWEEP_LOCK in names and not found.sweeping:
        found.sweeping = is_held(Path(top) / SWEEP_LOCK)
    for entry in entries:
        if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _run_folders(entry.path, found)


def _take(folder: Path, configs: Configs, found: Found, validation: bool) -> None:
    try:
        content = _result(folder)
        status = _status(folder, content)
        if status != run_folder.FINISHED:
            found.left_out.append((folder, _how_it_stands(status, content)))
            return
        config = _config(folder, configs)
        run = _run(folder, content, config)
    except (OSError, ValueError) as error:
        reason = f"{Path(str(error.filename)).name}: {error.strerror}" if isinstance(error, OSError) else str(error)
        found.left_out.append((folder, reason))
        return
    if validation:
        run.metrics.update(_validation(folder, config))
    if not run.metrics:
        found.left_out.append((folder, "it has no metrics; it ran with eval=[]"))
        return
    found.runs.append(run)
    found.ended[folder] = (folder / run_folder.RESULT).stat().st_mtime
    _take_evaluations(run, found)


def _take_encoder(folder: Path, found: Found) -> None:
    """Add what ``ssl-eval`` has kept of an encoder that no run has trained: its own name is its setting."""
    for path, one in _kept(folder, found):
        about = one.content.get("encoder", {})
        git, name = one.content.get("git"), str(about.get("name", folder.name))
        found.runs.append(
            Run(
                folder=path,
                name=name,
                status=run_folder.FINISHED,
                config={ENCODER: name},
                config_hash=f"{folder.name}/{path.stem}",
                seed=0,
                metrics={key: float(value) for key, value in one.metrics.items() if isinstance(value, int | float)},
                protocols=one.protocols,
                dataset=one.content.get("dataset", {}),
                seconds=None,
                command=str(one.content.get("command", "")),
                commit=git.get("commit") if isinstance(git, dict) else None,
            )
        )
        found.ended[path] = path.stat().st_mtime


def _kept(folder: Path, found: Found) -> Iterator[tuple[Path, evaluations.Evaluation]]:
    """The evaluations in a folder; what cannot be read is left out and named."""
    for path in sorted(folder.glob("*.json")):
        one = evaluations.read(path)
        if one is None:
            found.left_out.append((path, "is damaged, or of another version; ssl-eval --again writes it once more"))
        else:
            yield path, one


def _take_evaluations(run: Run, found: Found) -> None:
    """Add what ``ssl-eval`` has kept beside a run: further figures of the same setting and seed."""
    for path, one in _kept(run.folder / evaluations.FOLDER, found):
        figures = {key: float(value) for key, value in one.metrics.items() if isinstance(value, int | float)}
        data, command = one.content.get("dataset", run.dataset), str(one.content.get("command", ""))
        found.runs.append(
            replace(
                run,
                folder=path,
                config_hash=f"{run.config_hash}/{path.stem}",
                metrics=figures,
                protocols=one.protocols,
                dataset=data,
                command=command,
            )
        )
        found.ended[path] = path.stat().st_mtime


def _result(folder: Path) -> dict[str, Any]:
    path = folder / run_folder.RESULT
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InvalidValue("it has no result.json: it has not begun, or is no run") from None
    except ValueError as error:
        raise InvalidValue(f"result.json is damaged ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("status"), str):
        raise InvalidValue("result.json has no status: it is not the result of a run")
    return content


def _status(folder: Path, content: dict[str, Any]) -> str:
    stated = content["status"]
    return "killed" if stated == run_folder.RUNNING and not is_held(folder / run_folder.LOCK) else stated


def _how_it_stands(status: str, content: dict[str, Any]) -> str:
    step = f" after step {content['step']}" if isinstance(content.get("step"), int) else ""
    reason = f": {printable(str(content['reason']))}" if content.get("reason") else ""
    return f"{printable(status)}{step}{reason}"


def _config(folder: Path, configs: Configs) -> dict[str, Any]:
    try:
        return configs.read(folder / CONFIG)
    except FileNotFoundError:
        raise InvalidValue("it has no config.yaml") from None
    except ValueError as error:
        raise InvalidValue(f"config.yaml is damaged ({error})") from None


def _run(folder: Path, content: dict[str, Any], config: dict[str, Any]) -> Run:
    """Raises ValueError if a part of the result is missing or of the wrong kind."""
    name = folder.name if (folder.parent / "manifest.json").exists() else f"{folder.parent.name}/{folder.name}"
    git, seconds, seed = content.get("git"), content.get("seconds"), content.get("seed", config.get("seed"))
    metrics, protocols, dataset = (_mapping(content, key) for key in ("metrics", "protocols", "dataset"))
    if not isinstance(seed, int) or not isinstance(content.get("config_hash"), str):
        raise InvalidValue("result.json has no seed or no config_hash; it may be from a version before 0.1")
    figures = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
    return Run(
        folder=folder,
        name=name,
        status=content["status"],
        config=config,
        config_hash=content["config_hash"],
        seed=seed,
        metrics=figures,
        protocols=protocols,
        dataset=dataset,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        command=str(content.get("command", "")),
        commit=git.get("commit") if isinstance(git, dict) else None,
        init=init if isinstance(init := content.get("init"), dict) else {},
    )


def _mapping(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise InvalidValue(f"result.json has no {key}; it is incomplete, or from a version before 0.1")
    return value


def _validation(folder: Path, config: dict[str, Any]) -> dict[str, float]:
    """The last figures on validation images; those of the selected step where the run selects one."""
    rows: dict[int, dict[str, float]] = {}
    try:
        lines = (folder / run_folder.METRICS).read_bytes().splitlines()
    except OSError:
        return {}
    for line in lines:
        if _LOGGED.encode() not in line:
            continue
        try:
            row = json.loads(line)
            figures = {key: float(value) for key, value in row.items() if key.startswith(_LOGGED)}
            rows[int(row["step"])] = figures
        except (ValueError, KeyError, TypeError):  # a line that was cut
            continue
    if not rows:
        return {}
    select = f"{_LOGGED}{config.get('trainer.select')}"
    scored = [step for step in rows if select in rows[step]]
    step = min(scored, key=lambda one: (-rows[one][select], one)) if scored else max(rows)
    return {VALIDATION + key.removeprefix(_LOGGED): value for key, value in rows[step].items()}
