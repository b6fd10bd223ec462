"""A search from the command line: checked, run with a launcher of ours, and what it found."""

import functools
import hashlib
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import OmegaConf

from ssl_runner.cli.app import App
from ssl_runner.cli.best import write_best
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.jobs import search_plan
from ssl_runner.cli.similar import Similar
from ssl_runner.cli.spaces import Plan
from ssl_runner.cli.sweep import folder_of, renew_board
from ssl_runner.cli.validate import Checked, check_jobs, checked_config
from ssl_runner.config.building import build
from ssl_runner.config.hashing import config_hash
from ssl_runner.errors import ConfigError, InvalidValue
from ssl_runner.runs import provenance
from ssl_runner.runtime.console import Console
from ssl_runner.sweeps import manifest
from ssl_runner.sweeps.drive import drive
from ssl_runner.sweeps.manifest import Job, Manifest
from ssl_runner.sweeps.names import trial_name
from ssl_runner.sweeps.search import study
from ssl_runner.sweeps.search.settings import USUAL_TRIALS
from ssl_runner.sweeps.search.spaces import combinations
from ssl_runner.sweeps.search.study import Study
from ssl_runner.sweeps.search.trials import Trials
from ssl_runner.sweeps.sweep import Sweep, held
from ssl_runner.sweeps.table import Table


def run_search(app: App, composer: Composer, overrides: list[str]) -> int:
    """Run the trials that are left of a search.

    Returns:
        Exit code: 0 if all trials have ended and one has a figure, 130 when interrupted, else 1.

    Raises:
        ConfigError: With all problems of the command line.
    """
    console = Console()
    checked = _checked(app, composer, overrides)
    if checked.configs[0].get("dry_run"):
        return 0
    plan = search_plan(composer, overrides)
    _refuse(app, plan, checked)
    base = composer.compose(overrides, RunMode.MULTIRUN)
    launcher = _launcher(base)
    again = bool((checked.configs[0].get("sweep") or {}).get("again"))
    outputs = Path(os.environ.get("SSL_RUNNER_OUTPUTS", "outputs")).absolute()
    content = _content(plan, checked)
    folder = folder_of(overrides, base, f"search_{content}", outputs, checked.configs[0]["name"], again)
    with held(folder):
        sweep = _begin(folder, None if again else outputs, checked.job_bytes, list(plan.spaces))
        if plan.figures:
            console.tell("search", plan.figures)
        make = _Maker(composer, plan, checked)
        known = Study(folder, content, plan.search, list(plan.spaces.values()))
        trials = Trials(sweep, known, _total(plan), make, console.tell)
        slots, interrupted = launcher.slots(sweep), False
        if slots >= trials.total > 1 and plan.search.sampler in ("tpe", "cmaes"):
            console.warn(
                f"hydra.launcher.jobs={slots}: all {trials.total} trials run at once, so none learns from the others; "
                "lower it"
            )
        try:
            drive(sweep, launcher, trials, Table(console))
        except KeyboardInterrupt:
            interrupted = True
        code = _summarise(composer, trials, console)
    return 130 if interrupted else code


def _checked(app: App, composer: Composer, overrides: list[str]) -> Checked:
    """The trials at the ends of the spaces. Their checkpoints are selected by the metric, which must exist for that."""
    try:
        return check_jobs(app, composer, overrides, multirun=True)
    except ConfigError as error:
        try:
            metric = search_plan(composer, overrides).search.metric
        except ValueError:  # reported already
            raise error from None
        named = f"trainer.select={metric}: evaluation has"
        texts = [text.replace(named, f"hydra.sweeper.metric={metric}: validation has") for text in error.problems]
        raise ConfigError(texts) from None


def _refuse(app: App, plan: Plan, checked: Checked) -> None:
    """Raises ConfigError for a search without spaces, or one whose trials end before they are validated."""
    if not plan.spaces:
        raise ConfigError(
            [
                "hydra/sweeper=search: there is no space to search; give one, as "
                "'loss.temperature=tag(log,interval(0.01,1))'"
            ]
        )
    every = checked.configs[0]["trainer"].get("evaluate_every")
    if isinstance(every, int):
        run = app.prepare(checked.configs[0])
        steps = run.trainer.steps(run.batching)
        if every > steps:
            raise ConfigError(
                [
                    f"trainer.evaluate_every={every}, but trials end after {steps} steps, without a figure of "
                    "validation; lower it, or leave it out"
                ]
            )


def _launcher(base: Any) -> Any:
    node: Any = OmegaConf.to_container(base.hydra.launcher, resolve=True)
    if not str(node.get("_target_", "")).startswith("ssl_runner.sweeps."):
        raise ConfigError(["hydra/launcher: a search needs one of ours; choose hydra/launcher=local"])
    return build(node, "hydra.launcher")


def _content(plan: Plan, checked: Checked) -> str:
    """Eight hex digits of all that a search is, except its number of trials."""
    spaces = {key: repr(space) for key, space in plan.spaces.items()}
    jobs = [config_hash(config) for config in checked.configs]
    text = json.dumps([plan.search.identity, spaces, jobs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _begin(folder: Path, outputs: Path | None, job_bytes: int | None, searched: list[str]) -> Sweep:
    """The sweep in its folder, with the jobs of earlier commands.

    Raises:
        InvalidValue: The folder holds another sweep, or a damaged one.
    """
    if not (folder / manifest.FILE).exists():
        asked = Manifest.of(provenance.command(), provenance.git(), [], [], [])
        asked.write(folder)
        return Sweep(folder, asked, outputs, job_bytes, searched)
    if not (folder / study.FILE).exists() and manifest.read(folder).jobs:
        raise InvalidValue(f"{folder} holds another sweep; give another hydra.sweep.dir, or leave it out")
    return Sweep(folder, manifest.read(folder), outputs, job_bytes, searched)


def _total(plan: Plan) -> int:
    if plan.search.sampler == "grid":
        every = combinations(list(plan.spaces.values()))
        return every if plan.search.trials is None else min(every, plan.search.trials)
    return USUAL_TRIALS if plan.search.trials is None else plan.search.trials


@dataclass(frozen=True)
class _Maker:
    """Makes a job of a trial's values."""

    composer: Composer
    plan: Plan
    checked: Checked

    def __call__(self, index: int, values: dict[str, Any]) -> Job:
        words = self.plan.overrides(values)
        config, _ = self._similar(words) or checked_config(self.composer, words, number=index)
        texts = {key: _short(values[key], space.text(values[key])) for key, space in self.plan.spaces.items()}
        own = [word for word in words if not word.startswith(("hydra.", "hydra/"))]
        return Job(trial_name(index, texts), own, config, config_hash(config), self._data.get(_dataset(config)))

    @functools.cached_property
    def _similar(self) -> Similar:
        return Similar(self.composer)

    @functools.cached_property
    def _data(self) -> dict[str, str | None]:
        return {
            _dataset(config): found
            for config, found in zip(self.checked.configs, self.checked.fingerprints, strict=True)
        }


def _dataset(config: dict[str, Any]) -> str:
    return json.dumps(config.get("dataset"), sort_keys=True)


def _short(value: Any, text: str) -> str:
    """For a name: four digits are enough."""
    return f"{value:.4g}" if isinstance(value, float) else text


def _summarise(composer: Composer, trials: Trials, console: Console) -> int:
    """The best trial, its values, and the command that runs it; returns the exit code."""
    known, sweep = trials.study, trials.sweep
    renew_board(sweep, console, [f"eval/validation/{known.search.metric}"])
    words = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "interrupted"}
    counts = ", ".join(f"{count} {words[state]}" for state in words if (count := known.count(state)))
    for one in known.trials:
        if one.state.name == "FAIL":
            console.tell("failed", f"{known.job(one) or f'trial {one.number}'}: {known.reason(one)}")
    console.tell("search", f"{counts or 'none begun'} of {trials.total} trials, in {sweep.folder}")
    left = known.count("RUNNING") or trials.asked < trials.total
    if left:
        console.print(f"run what is left with the same command: {provenance.command()}", soft_wrap=True)
    best = known.best
    if best is None:
        console.tell("best", "no trial has a figure yet" if left else "no trial has a figure")
        return 1
    job = next(job for job in sweep.jobs if job.name == known.job(best))
    console.tell("best", f"{known.search.metric} {best.value:.4f} on validation images: {job.name}")
    for space in known.spaces:
        console.tell("", f"{space.key}={space.text(best.params[space.key])}")
    about = f"The best trial of a search, {job.name}: {known.search.metric} {best.value:.4f} on validation images."
    command = write_best(composer, sweep.folder, job, about)
    console.print(f"run it: {shlex.join(command)}", soft_wrap=True)
    console.print(f"tensorboard --logdir {shlex.quote(str(sweep.folder))}", soft_wrap=True)
    return 1 if left else 0
