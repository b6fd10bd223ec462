"""Evaluates trained encoders on a dataset: all of them on the same images and episodes, in the way a run is."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ssl_runner.config.hashing import config_hash
from ssl_runner.config.schema import Config
from ssl_runner.data.dataset import Splits
from ssl_runner.errors import ConfigError, DataError, NotDownloaded
from ssl_runner.evaluation import answers
from ssl_runner.evaluation.compared import Evaluations, Row
from ssl_runner.evaluation.evaluator import Evaluator, evaluate
from ssl_runner.evaluation.pairs import compare
from ssl_runner.evaluation.unseen import shares_images
from ssl_runner.runs import evaluations, provenance
from ssl_runner.runs.evaluations import Evaluation
from ssl_runner.runtime import versions
from ssl_runner.runtime.device import enough_memory
from ssl_runner.runtime.no_download import no_download
from ssl_runner.training.begun import Begun
from ssl_runner.training.trainer import Trainer
from ssl_runner.wiring import components
from ssl_runner.wiring.compatibility import REFUSED, Attempts, check_evaluators
from ssl_runner.wiring.subjects import Subject, load_subject
from ssl_runner.wiring.wire import place

MEMORY = "evaluation ran out of memory; free some, lower dataset.size, or give fewer evaluators"


@dataclass(frozen=True)
class Judge:
    """A dataset and what is asked of it.

    Attributes:
        config: The nodes ``dataset`` and ``eval``.
        splits: The dataset.
        evaluators: By name.
        protocols: What they measure, whoever is asked.
        hash: Of all of that, and of the data.
    """

    config: Config
    splits: Splits
    evaluators: dict[str, Evaluator]
    protocols: dict[str, Any]
    hash: str


def load_subjects(names: Sequence[str]) -> list[Subject]:
    """The encoders with these names; raises ConfigError with the problems of all."""
    attempt = Attempts()
    found = [attempt(load_subject, name) for name in names]
    attempt.settle()
    return found


def trainers_of(configs: Sequence[Config]) -> list[Trainer]:
    """Device, threads and memory format for each encoder; raises ConfigError."""
    attempt = Attempts()
    found = [attempt(components.part, config["trainer"], "trainer", Trainer) for config in configs]
    attempt.settle()
    return found


def judge(config: Config, subjects: Sequence[Subject], trainers: Sequence[Trainer], fetch: bool) -> Judge | list[str]:
    """Build dataset and evaluators and check that every encoder can be asked, before anything is downloaded.

    Args:
        config: With the nodes ``dataset`` and ``eval``.
        fetch: Whether what is missing may be downloaded.

    Returns:
        The judge; or, if data is missing and may not be downloaded, the names of what is missing.

    Raises:
        ConfigError: With every problem.
        DataError: Data is damaged, or cannot be downloaded.
    """
    with no_download(may_decode=not fetch) as absent, contextlib.suppress(NotDownloaded):
        built = _judge(config, subjects, trainers)
        if not absent:
            return built
    return _judge(config, subjects, trainers) if fetch else list(dict.fromkeys(absent))


def _judge(config: Config, subjects: Sequence[Subject], trainers: Sequence[Trainer]) -> Judge:
    attempt = Attempts()
    splits = attempt(components.part, config["dataset"], "dataset", Splits)
    nodes = {name: node for name, node in config["eval"].items() if node is not None}
    if not nodes:
        attempt.problems.append("eval=[]: nothing is asked; give evaluators, as eval=[knn,linear_probe,few_shot]")
    built = {name: attempt(components.part, node, f"eval.{name}", Evaluator) for name, node in nodes.items()}
    attempt.settle()
    for subject, trainer in zip(subjects, trainers, strict=True):
        attempt(_check, built, subject, splits, trainer)
    attempt.settle()
    if REFUSED in (splits, *built.values()):  # although there is no problem
        raise NotDownloaded(f"the data of {config['dataset']['_target_']}, or of an evaluator, is not available yet")
    protocols = {name: evaluator.protocol(splits) for name, evaluator in built.items()}
    kept = {name: config[name] for name in ("dataset", "eval")}
    parts = [None if part is None else part.fingerprint for part in (splits.train, splits.validation, splits.test)]
    facts = {"config": config_hash(kept), "data": parts, "protocols": protocols}
    return Judge(kept, splits, built, protocols, evaluations.protocol_hash(facts))


def _check(evaluators: dict[str, Any], subject: Subject, splits: Splits, trainer: Trainer) -> None:
    algorithm, fitted, _ = subject.fitted(splits)
    place(algorithm, trainer)
    check_evaluators(evaluators, algorithm, fitted, trainer.device)


def asked(judge: Judge, subject: Subject, trainer: Trainer, again: bool, activity: Callable[[str], Any]) -> Evaluation:
    """The evaluation of an encoder: read, if the same is kept beside it, else computed and written.

    Args:
        again: Whether to compute it in any case.
        activity: Given the work in words, a context that shows it while it goes on.
    """
    path = subject.home / f"{judge.hash}.json"
    before = None if again else evaluations.read(path)
    if before is not None and before.content["encoder"].get("sha256") == subject.digest:
        return before
    began = time.perf_counter()
    algorithm, splits, done = subject.fitted(judge.splits)
    with activity(f"evaluating {subject.name} on {_name(splits)}"), trainer.process_settings(), enough_memory(MEMORY):
        place(algorithm, trainer)
        with answers.kept() as kept:
            scores = evaluate(judge.evaluators, algorithm, splits, trainer.device)
    own = subject.trained_on == splits.train.fingerprint
    content = {
        "hash": judge.hash,
        "encoder": subject.facts,
        "own_dataset": own,
        "metrics": {key: value for key, value in scores.items() if not key.startswith("time/")},
        "times": {key.removeprefix("time/"): value for key, value in scores.items() if key.startswith("time/")},
        "dataset": _described(splits),
        "preprocessing": done,
        "protocols": _stated(judge, subject, own) | {"algorithm": algorithm.protocol()},
        "config": judge.config,
        "command": provenance.command(),
        "hardware": provenance.hardware(trainer.device),
        "git": provenance.git(),
        "versions": versions.versions(),
        "seconds": time.perf_counter() - began,
    }
    return evaluations.write(path, content, {key: value.numpy() for key, value in kept.items()})


def _name(splits: Splits) -> str:
    return splits.train.name.rpartition("/")[0] or splits.train.name


def _described(splits: Splits) -> dict[str, Any]:
    """As result.json describes a run's data."""
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {
        "name": _name(splits),
        "fingerprint": splits.train.fingerprint,
        "split_by": splits.by,
        "images": {name: 0 if part is None else len(part) for name, part in parts.items()},
        "classes": {name: 0 if part is None else part.n_classes for name, part in parts.items()},
        **{note.key: note.value for note in splits.notes},
    }


def _stated(judge: Judge, subject: Subject, own: bool) -> dict[str, Any]:
    """The protocols, whose ``classes`` say what this encoder has seen, before its run began included.

    Args:
        own: Whether the run was trained on this very data; else on other data, or on an unknown part of it.
    """
    return {name: _with_seen(judge, subject, own, name, protocol) for name, protocol in judge.protocols.items()}


def _with_seen(judge: Judge, subject: Subject, own: bool, name: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    target = getattr(judge.evaluators[name], "target", None)
    if "classes" not in protocol or subject.kind == "raw_pixels" or (own and subject.begun is None):
        return dict(protocol)
    if own and target is None:
        return Begun(subject.begun or {}, {}).protocol(dict(protocol), True, judge.splits)
    if subject.sources is None:
        return dict(protocol) | {"classes": "unknown"}
    trained = replace(judge.splits.train, seen=tuple(subject.sources) or ("",))
    seen = shares_images(judge.splits.test if target is None else target, trained)
    return dict(protocol) | {"classes": "seen" if seen else "unseen"}


def evaluated(
    names: Sequence[str],
    rows: Sequence[tuple[str, Config, Sequence[Config], bool]],
    again: bool,
    activity: Callable[[str], Any],
    tell: Callable[[str], Any],
) -> Evaluations:
    """Every encoder on every row: its name, its config, one with a ``trainer`` for each encoder, whether to fetch data.

    A row of a suite whose data is not on this machine, or does not fit, is left out.

    Raises:
        ConfigError: With every problem of the encoders, or of the only row; or all rows are left out.
    """
    subjects = load_subjects(names)
    found, left_out = list[Row](), dict[str, str]()
    for name, config, configs, fetch in rows:
        try:
            trainers = trainers_of(configs)
            built = judge(config, subjects, trainers, fetch)
        except (ConfigError, DataError) as error:
            if not name:
                raise
            built = str(error).replace("\n", "; ")
        if not isinstance(built, Judge):
            left_out[name] = built if isinstance(built, str) else f"not on this machine ({', '.join(built)})"
            tell(f"{name} is left out: {left_out[name]}")
            continue
        each = [asked(built, *pair, again, activity) for pair in zip(subjects, trainers, strict=True)]
        differences = compare([one.answers for one in each]) if len(each) > 1 else []
        found.append(Row(name, each, differences))
    if not found:
        raise ConfigError([f"{name}: {why}" for name, why in left_out.items()])
    return Evaluations(list(names), found, left_out)
