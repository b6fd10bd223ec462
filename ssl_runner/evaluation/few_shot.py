"""Few-shot classification on fixed tasks, the same for every algorithm."""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssl_runner import randomness
from ssl_runner.algorithms.algorithm import Algorithm, Classifier
from ssl_runner.checkpoint import write_atomically
from ssl_runner.config import ConfigError
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.data.tasks import Tasks, TaskSampler
from ssl_runner.evaluation.features import dataset_features, evaluating

MANIFEST = "tasks.safetensors"


@dataclass(frozen=True)
class Setting:
    """``5w1s`` as numbers; ``5w1s1q`` says its own queries per class."""

    name: str
    n_way: int
    k_shot: int
    n_query: int

    @classmethod
    def parse(cls, name: str, n_query: int) -> "Setting":
        match = re.fullmatch(r"(\d+)w(\d+)s(?:(\d+)q)?", name)
        if match is None:
            raise ValueError(f"eval.few_shot.settings has '{name}'; expected ways and shots, as in 5w1s, or 5w1s1q")
        return cls(name, int(match[1]), int(match[2]), int(match[3] or n_query))


class FewShot:
    """Mean accuracy over episodes drawn from the test split, with its 95% interval.

    The tasks are a function of dataset, setting, episodes' places and seed: every algorithm is asked the same ones, by
    chunks of any size.

    Args:
        settings: Ways and shots, ``5w1s``, or with queries per class, ``5w1s1q``.
        n_query: Queries per class of a setting that does not say.
        episodes: Tasks of each setting, at least 2.
        seed: Of the tasks.
        tasks_per_batch: Tasks that are classified at once.
    """

    def __init__(self, settings: Sequence[str], n_query: int, episodes: int, seed: int, tasks_per_batch: int) -> None:
        if episodes < 2:
            raise ValueError(f"eval.few_shot.episodes={episodes}; an interval needs at least 2")
        if not settings:
            raise ValueError(
                "eval.few_shot.settings=[] asks for nothing; give [5w1s], or leave few_shot out of eval=[...]"
            )
        if len(set(settings)) < len(settings):
            raise ValueError(f"eval.few_shot.settings={list(settings)} names one twice; name each once")
        for name, value in {"n_query": n_query, "tasks_per_batch": tasks_per_batch}.items():
            if value < 1:
                raise ValueError(f"eval.few_shot.{name}={value}; it must be at least 1")
        randomness.check_seed(seed, "eval.few_shot.seed")
        self.settings = [Setting.parse(setting, n_query) for setting in settings]
        self.n_query = n_query
        self.episodes = episodes
        self.seed = seed
        self.tasks_per_batch = tasks_per_batch

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """``few_shot/5w1s/top1`` and ``few_shot/5w1s/ci95`` for each setting, as the algorithm is configured.

        Beside them, for each of the algorithm's `classifiers`, ``few_shot/5w1s/<name>/top1`` and ``.../ci95``.

        Raises:
            ValueError: If the test split has too few classes or images for a setting.
        """
        scores = {}
        with evaluating(algorithm):
            for setting in self.settings:
                tasks = self.tasks(setting, splits.test)
                configured = self.accuracies(algorithm, splits.test, tasks, device)
                found = {setting.name: configured}
                for name, classify in algorithm.classifiers().items():
                    same = classify == algorithm.classify  # the configured way, under its name
                    way = f"{setting.name}/{name}"
                    found[way] = configured if same else self._right(classify, name, splits.test, tasks, device)
                for way, accuracies in found.items():
                    scores[f"few_shot/{way}/top1"] = accuracies.mean().item()
                    scores[f"few_shot/{way}/ci95"] = interval(accuracies)
        return scores

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """Mean and interval of each setting, and of each of the algorithm's `classifiers`."""
        names = [] if algorithm is None else [f"/{name}" for name in algorithm.classifiers()]
        ways = [setting.name + name for setting in self.settings for name in ("", *names)]
        return [f"few_shot/{way}/{score}" for way in ways for score in ("top1", "ci95")]

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Draw tasks and classify one of each setting; raises ValueError where ways, shots or classes do not fit."""
        try:
            first = [self.tasks(setting, splits.test)[:1] for setting in self.settings]
        except ConfigError as error:
            raise ConfigError([*error.problems, self._remedy(splits.test)]) from None
        if algorithm is None:
            return
        with evaluating(algorithm):
            for task in first:
                self._right(algorithm.classify, f"{type(algorithm).__name__}.classify", splits.test, task, device)
                for name, classify in algorithm.classifiers().items():
                    if classify != algorithm.classify:
                        self._right(classify, name, splits.test, task, device)

    def _remedy(self, dataset: Dataset) -> str:
        """Settings that a dataset has the classes and images for: those of ours that fit, else the nearest one."""
        assert dataset.labels is not None, "told before"
        classes, smallest = dataset.n_classes, int(dataset.labels.bincount(minlength=dataset.n_classes).min())
        has = f"eval.few_shot: {dataset.name} has {classes} classes of at least {smallest} images"
        if min(classes, smallest) < 2:
            return f"{has}, too few for any task; leave few_shot out of eval=[...]"
        asked = {one: one.k_shot + (1 if one.n_query == self.n_query else one.n_query) for one in self.settings}
        fit = [one for one, least in asked.items() if one.n_way <= classes and least <= smallest]
        fit = fit or [Setting.parse(f"{min(classes, self.settings[0].n_way)}w1s", self.n_query)]
        n_query = min(self.n_query, smallest - max(one.k_shot for one in fit))
        settings = ",".join(one.name for one in fit)
        return f"{has}; what fits it is eval.few_shot.settings=[{settings}] eval.few_shot.n_query={n_query}"

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """Settings with the hashes of their tasks, episodes, seed, and whether the classes were seen in training."""
        settings = {
            setting.name: {
                "n_way": setting.n_way,
                "k_shot": setting.k_shot,
                "n_query": setting.n_query,
                "tasks": manifest(self.tasks(setting, splits.test), splits.test),
            }
            for setting in self.settings
        }
        return {
            "source": splits.test.name,
            "classes": "seen" if splits.by == "images" else "unseen",
            "episodes": self.episodes,
            "seed": self.seed,
            "interval": "95%, " + ("1.96 std / sqrt(n)" if self.episodes >= 30 else "Student's t"),
            "settings": settings,
        }

    def write_manifest(self, folder: Path, splits: Splits) -> None:
        """Write folder/tasks.safetensors: ``5w1s/support`` and ``5w1s/query`` of each setting, int32 (T, images).

        Numbers are places in the test split; the hashes in `protocol` are of them.
        """
        found = {}
        for setting in self.settings:
            tasks = self.tasks(setting, splits.test)
            found[f"{setting.name}/support"], found[f"{setting.name}/query"] = tasks.support.int(), tasks.query.int()
        described = {"source": splits.test.name, "fingerprint": splits.test.fingerprint, "seed": str(self.seed)}
        write_atomically(folder / MANIFEST, lambda path: save_file(found, path, described))

    def tasks(self, setting: Setting, dataset: Dataset) -> Tasks:
        """All episodes of a setting."""
        sampler = TaskSampler(
            dataset, setting.n_way, setting.k_shot, setting.n_query, f"{{}} of '{setting.name}' in eval.few_shot"
        )
        stream = f"few_shot/{setting.n_way}w{setting.k_shot}s{setting.n_query}q"
        return sampler(randomness.uniforms(self.seed, stream, 0, self.episodes, sampler.columns))

    def accuracies(self, algorithm: Algorithm, dataset: Dataset, tasks: Tasks, device: torch.device) -> Tensor:
        """float64 (T,), one a task."""
        # The default classifier looks at one image at a time: each image is encoded once, not once an episode.
        if type(algorithm).classify is Algorithm.classify:
            return _accuracies(self._by_features(algorithm, dataset, tasks, device), type(algorithm).__name__)
        return self._right(algorithm.classify, f"{type(algorithm).__name__}.classify", dataset, tasks, device)

    def _right(self, classify: Classifier, name: str, dataset: Dataset, tasks: Tasks, device: torch.device) -> Tensor:
        """As `accuracies`, of any way to classify; its name is for an error."""

        def scores() -> Iterator[tuple[Tasks, Tensor]]:
            for part in self._chunks(tasks):
                support, query = dataset.images[part.support].to(device), dataset.images[part.query].to(device)
                yield part, classify(support, part.support_labels.to(device), query, part.n_way)

        return _accuracies(scores(), name)

    def _by_features(self, algorithm, dataset, tasks, device) -> Iterator[tuple[Tasks, Tensor]]:
        found = algorithm.embed(dataset_features(algorithm.eval_encoder(), dataset, device))
        for part in self._chunks(tasks):
            support, query = found[part.support.to(device)], found[part.query.to(device)]
            yield part, algorithm.compare(support, part.support_labels.to(device), query, part.n_way)

    def _chunks(self, tasks: Tasks) -> Iterator[Tasks]:
        for start in range(0, len(tasks), self.tasks_per_batch):
            yield tasks[start : start + self.tasks_per_batch]


def _accuracies(scores: Iterator[tuple[Tasks, Tensor]], name: str) -> Tensor:
    """float64 (T,) of tasks and their scores (T, Q, n_way), chunk by chunk."""
    found = []
    for part, values in scores:
        expected = (*part.query.shape, part.n_way)
        if values.shape != expected:
            raise ValueError(f"{name} gave {tuple(values.shape)}; expected (T, Q, n_way) = {expected}")
        found.append((values.argmax(dim=2).cpu() == part.query_labels).double().mean(dim=1))
    return torch.cat(found)


def interval(accuracies: Tensor) -> float:
    """Half the 95% interval of the mean of accuracies (n,): normal from 30 on, Student's t below."""
    n, quantile = len(accuracies), 1.96
    if n < 30:
        from scipy.stats import t as student  # takes seconds to import

        quantile = float(student.ppf(0.975, n - 1))
    return quantile * accuracies.std().item() / math.sqrt(n)


def manifest(tasks: Tasks, dataset: Dataset) -> str:
    """SHA-256 of the tasks and of the data that they point into."""
    digest = hashlib.sha256(f"{dataset.name} {dataset.fingerprint} {tasks.n_way}".encode())
    for places in (tasks.support, tasks.query):
        digest.update(str(tuple(places.shape)).encode())
        digest.update(places.numpy().astype("<i8").tobytes())
    return digest.hexdigest()
