"""A sweep with a launcher of ours: written down, run, and what has become of its jobs."""

import itertools
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import OmegaConf

from ssl_runner.cli.compose import Composer
from ssl_runner.cli.validate import Checked
from ssl_runner.config.building import build
from ssl_runner.errors import ConfigError
from ssl_runner.runs import provenance
from ssl_runner.runtime.console import Console
from ssl_runner.sweeps.drive import Grid, drive
from ssl_runner.sweeps.manifest import FILE, Manifest, read
from ssl_runner.sweeps.sweep import Sweep, begin, held
from ssl_runner.sweeps.table import Table


def run_sweep(composer: Composer, overrides: Sequence[str], checked: Checked) -> int:
    """Run what is left of a sweep.

    Returns:
        Exit code: 0 if all jobs are done, or were submitted to a cluster; 130 when interrupted, else 1.
    """
    if any(word.startswith("hydra.sweep.subdir=") for word in overrides):
        raise ConfigError(
            [
                "hydra.sweep.subdir: this launcher names job folders by what differs between the jobs; leave it out, "
                "or choose hydra/launcher=basic"
            ]
        )
    console = Console()
    base = composer.compose(overrides, RunMode.MULTIRUN)
    node: Any = OmegaConf.to_container(base.hydra.launcher, resolve=True)
    launcher = build(node, "hydra.launcher")
    words = [
        [word for word in job if not word.lstrip("+~").startswith(("hydra.", "hydra/"))] for job in checked.overrides
    ]
    asked = Manifest.of(provenance.command(), provenance.git(), words, checked.configs, checked.fingerprints)
    outputs = Path(os.environ.get("SSL_RUNNER_OUTPUTS", "outputs")).absolute()
    again = bool((checked.configs[0].get("sweep") or {}).get("again"))
    folder = folder_of(overrides, base, f"sweep_{asked.content}", outputs, checked.configs[0]["name"], again)
    with held(folder):
        sweep = begin(folder, asked, None if again else outputs, checked.job_bytes)
        _report_code(sweep, console)
        if launcher.detached:
            renew_board(sweep, console)
            return launcher.submit(sweep, console)
        try:
            drive(sweep, launcher, Grid(sweep.unfinished), Table(console))
        except KeyboardInterrupt:
            _summarise(sweep, console)
            return 130
        _summarise(sweep, console)
    return 0 if all(one.finished for one in sweep.states) else 1


def folder_of(overrides: Sequence[str], base: Any, stem: str, outputs: Path, name: str, again: bool) -> Path:
    """The one that was asked for; else one whose name is the sweep's content, so that the same command finds it.

    With ``sweep.again=true``, the name is numbered: a sweep that was interrupted goes on, and after a complete one
    another begins.
    """
    if any(word.startswith("hydra.sweep.dir=") for word in overrides):
        return Path(str(base.hydra.sweep.dir)).expanduser().absolute()
    folder = outputs / name / stem
    if not again:
        return folder
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2))
    return next(path for path in numbered if not (path / FILE).exists() or Sweep(path, read(path), None).unfinished)


def _report_code(sweep: Sweep, console: Console) -> None:
    """Say of finished jobs that they were made with other code than there is now."""
    git = provenance.git()
    if git is None:
        return
    now = f"{git['commit'][:9]}{' and changes' if git.get('dirty') else ''}"
    others = [one.commit for one in sweep.states if one.finished and one.commit not in (None, now)]
    if others:
        commits = ", ".join(sorted({str(commit) for commit in others}))
        console.warn(
            f"{len(others)} finished jobs were run with other code ({commits}) than is here now ({now}); "
            "sweep.again=true runs them once more"
        )


def renew_board(sweep: Sweep, console: Console, first: Sequence[str] = ()) -> None:
    """Write what TensorBoard shows of the sweep as a whole; a full disk must not hide what the jobs did."""
    from ssl_runner.sweeps import board  # imports torch

    try:
        board.renew(sweep, first)
    except OSError as error:
        console.warn(f"TensorBoard's pages of the sweep were not written: {error}")


def _summarise(sweep: Sweep, console: Console) -> None:
    """Counts, the reason of each failure, and how to go on."""
    renew_board(sweep, console)
    for number, one in enumerate(sweep.states):
        if one.status == "failed":
            console.tell("failed", f"{sweep.jobs[number].name}: {one.reason or 'see its folder'}")
    counts = ", ".join(f"{count} {status}" for status, count in sweep.counts.items())
    console.tell("sweep", f"{counts} of {len(sweep.jobs)} jobs, in {sweep.folder}")
    if not all(one.finished for one in sweep.states):
        console.print(f"run what is left with the same command: {sweep.manifest.command}", soft_wrap=True)
    console.print(f"tensorboard --logdir {shlex.quote(str(sweep.folder))}", soft_wrap=True)
