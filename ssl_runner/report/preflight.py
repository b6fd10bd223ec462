"""The summary before the first step: a dozen lines on what will be trained."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_runner.data.batches import Views
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.episode_batching import EpisodeBatching
from ssl_runner.data.episodes.pseudo_episodes import PseudoEpisodeBatching
from ssl_runner.data.episodes.varied_batching import VariedEpisodeBatching
from ssl_runner.evaluation.few_shot import FewShot
from ssl_runner.evaluation.linear_probe import LinearProbe
from ssl_runner.evaluation.verdict import Verdict
from ssl_runner.runtime import process_group
from ssl_runner.runtime.console import Console
from ssl_runner.training.run import Run

SLOW = 30  # seconds; the duration of a slower evaluation is announced


def announce(run: Run, folder: Path | None, start_step: int, console: Console) -> None:
    """Print what a run is about to do.

    Args:
        run: The run's objects.
        folder: The run folder, or None for a dry run.
        start_step: Steps done before this session.
        console: Where to print.
    """
    for name, text in lines(run, folder, start_step).items():
        console.tell(name, text)
    owners = {f"eval.{name}: ": getattr(evaluator, "own", None) for name, evaluator in run.evaluators.items()}
    for owner, splits in {"": run.splits, **owners}.items():
        for note in () if splits is None else splits.notes:
            if note.warning:
                console.warn(f"{owner}{note.text}.")
    for caution in run.cautions:
        console.warn(f"{caution}.")


def lines(run: Run, folder: Path | None, start_step: int) -> dict[str, str]:
    """The summary: one line per subject."""
    splits, batching, network = run.splits, run.batching, run.algorithm.network
    parameters = sum(parameter.numel() for parameter in run.algorithm.parameters() if parameter.requires_grad)
    encoder = sum(parameter.numel() for parameter in network.encoder.parameters())
    counted = f"{encoder:,} of {parameters:,} trained parameters"
    if run.algorithm.frozen:
        counted = f"{encoder:,} frozen parameters beside {parameters:,} that are trained"
    steps = run.trainer.steps(batching)
    epochs = "" if batching.steps_per_epoch is None else f", {steps / batching.steps_per_epoch:,.1f} epochs"
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    found = {
        "algorithm": f"{type(run.algorithm).__name__}, loss {_loss(run)}",
        "encoder": f"{type(network.encoder.backbone).__name__}, {counted}, "
        f"{network.encoder.out_features:,} features of {'x'.join(map(str, network.encoder.input_shape))} images"
        + (f" ({network.encoder.represented_by})" if network.encoder.represented_by else ""),
        **({} if run.begun is None else {"begins from": _beginning(run.begun.facts)}),
        "data": f"{splits.train.name.rpartition('/')[0] or splits.train.name} by {splits.by}, "
        f"fingerprint {splits.train.fingerprint}",
        "": "; ".join(f"{name} {_counts(part)}{_named(part, name)}" for name, part in parts.items()),
    }
    if notes := [note.text for note in splits.notes if not note.warning]:
        found["notes"] = "; ".join(notes)
    return found | {
        "batch": _batch(run),
        "steps": f"{steps:,}{epochs}" + (f", from step {start_step:,}" if start_step else ""),
        "optimizer": f"{type(run.optimizer).__name__}, learning rate {run.optimizer.param_groups[0]['initial_lr']:g}, "
        f"{type(run.schedule).__name__}",
        "device": f"{run.device}, {run.trainer.precision}, {run.identity.threads} threads, seed {run.seed}",
        "memory": _memory(run),
        "evaluation": "; ".join(_evaluation(name, one) + _slow(one, run) for name, one in run.evaluators.items())
        or "none",
        "run folder": "none (dry run)" if folder is None else str(folder),
    }


def _beginning(facts: Mapping[str, Any]) -> str:
    run = facts.get("run", {})
    whose = f" ({run['name']}, seed {run.get('seed', 'unknown')})" if run.get("name") else ""
    differing = [f"{key}: {before} -> {now}" for key, (before, now) in facts.get("encoder", {}).items()]
    other = f"; its settings differ: {', '.join(differing)}" if differing else ""
    frozen = ", frozen" if facts["freeze"] else ""
    return f"{facts['weights']}{whose}, fingerprint {facts['fingerprint']}{frozen}{other}"


def _loss(run: Run) -> str:
    loss = getattr(run.algorithm, "loss", None)
    return "its own" if loss is None else type(loss).__name__


def _counts(part: Dataset | None) -> str:
    if part is None:
        return "none"
    return f"{len(part):,} images" + (f" of {part.n_classes} classes" if part.n_classes else ", no labels")


def _named(part: Dataset | None, name: str) -> str:
    """The names of the first classes of train, which show whether folders were read as intended."""
    if name != "train" or part is None or not part.class_names:
        return ""
    few = part.class_names if part.n_classes <= 5 else (*part.class_names[:3], "...")
    return f" ({', '.join(few)})"


def _batch(run: Run) -> str:
    batching = run.batching
    if batching.batch_type is Views:
        own, processes = len(batching.largest()), process_group.size()
        shared = f", {own:,} on each of {processes} processes" if processes > 1 else ""
        return f"{own * processes:,} images, {batching.images_per_step:,} views of them{shared}"
    size = f"{batching.images_per_step:,} images"
    if isinstance(batching, PseudoEpisodeBatching):
        views = f"{batching.k_shot} support and {batching.n_query} query views of each"
        return f"{batching.tasks_per_batch} pseudo-tasks of {batching.n_way} images, {views}: {size}"
    if isinstance(batching, VariedEpisodeBatching):
        drawn = f"{_span(batching.ways)} ways, up to {batching.limits.support_size} shots in all"
        return f"one task of {drawn}, up to {batching.limits.n_query} queries: {size} on average"
    if not isinstance(batching, EpisodeBatching):
        return size
    ways, shots = (_span(numbers) for numbers in (batching.ways, batching.shots))
    growing = batching.ways_grow_every is not None and len(batching.ways) > 1
    growth = f" (one more every {batching.ways_grow_every:,} steps)" if growing else ""
    size += " on average" if len(batching.shots) * (1 if growing else len(batching.ways)) > 1 else ""
    size += " at the most ways" if growing else ""
    per_class = f"{shots} shots, {batching.n_query} queries"
    return f"{batching.tasks_per_batch} tasks of {ways} ways{growth}, {per_class}: {size}"


def _span(numbers: range) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _memory(run: Run) -> str:
    images, step = run.splits.train.images.nbytes, run.step_bytes
    held = f"training images {_size(images)}" if images else "training images are not held"
    return f"a step about {_size(step)}, {held}" if step else held


def _size(n: int) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"


def _slow(evaluator: object, run: Run) -> str:
    """The duration of a slow linear probe on a CPU; its cost grows with the number of images times classes."""
    if not isinstance(evaluator, LinearProbe) or run.device.type != "cpu":
        return ""
    seconds = evaluator.seconds(run.splits, run.algorithm.network.encoder)
    return f" (up to about {10 * math.ceil(seconds / 10)} s for each encoder)" if seconds > SLOW else ""


def _evaluation(name: str, evaluator: object) -> str:
    if isinstance(evaluator, FewShot):
        chosen = evaluator.chosen
        ways = "".join(f", {chosen.way(name) or name}" for name in (() if chosen.default else chosen.names))
        settings = ", ".join(setting.name for setting in evaluator.settings)
        return f"{name} {settings} ({evaluator.episodes:,} episodes{ways})"
    if isinstance(evaluator, Verdict):
        settings = ", ".join(setting.name for setting in evaluator.tasks.settings)
        return f"{name} on {evaluator.name} {settings} ({evaluator.tasks.episodes:,} episodes, with baselines)"
    return name.replace("_", " ").replace("pct", "%")
