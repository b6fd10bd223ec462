"""Few-shot classification on fixed tasks, the same for every algorithm."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.data.episodes.tasks import Tasks
from ssl_runner.errors import ConfigError
from ssl_runner.evaluation.answers import keep
from ssl_runner.evaluation.chosen_rate import at_chosen_rate
from ssl_runner.evaluation.contender import Contender
from ssl_runner.evaluation.fixed_tasks import FixedTasks
from ssl_runner.evaluation.setting import Setting, check_asked, remedy
from ssl_runner.evaluation.unseen import refuse_shape, shares_images
from ssl_runner.models.features import evaluating

MANIFEST = "tasks.safetensors"


class FewShot:
    """Mean accuracy over episodes drawn from the test split, with its 95% interval.

    The tasks are a function of dataset, setting, episode index and seed, so every algorithm gets the same ones,
    whatever the number of tasks per batch. If the classes of the test split have domains, each domain is scored
    separately.

    With its own dataset, the evaluator uses the test split of that dataset, and its keys say so. This measures transfer
    from one dataset to another. Its option is then called ``few_shot_DATASET``.

    Args:
        settings: Ways and shots, ``5w1s``, or with queries per class, ``5w1s1q``.
        n_query: Queries per class for settings that do not say.
        episodes: Number of tasks of each setting, at least 2.
        seed: Seed of the tasks.
        tasks_per_batch: Number of tasks that are classified at once.
        dataset: A dataset other than the run's, with images of the same shape, or None.

    Attributes:
        target: The test split of that dataset, or None.
    """

    def __init__(
        self,
        settings: Sequence[str],
        n_query: int,
        episodes: int,
        seed: int,
        tasks_per_batch: int,
        dataset: Splits | None = None,
    ) -> None:
        self.target = None if dataset is None else dataset.test
        self.option = "few_shot" if self.target is None else f"few_shot_{self.target.source}"
        self.settings = check_asked(self.option, settings, n_query, episodes, seed, tasks_per_batch)
        self.n_query = n_query
        self.episodes = episodes
        self.seed = seed
        self.tasks_per_batch = tasks_per_batch

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """``few_shot/5w1s/top1`` and ``few_shot/5w1s/ci95`` for each setting, as the algorithm is configured.

        For each of the algorithm's `classifiers`, also ``few_shot/5w1s/<name>/top1`` and ``.../ci95``. The keys begin
        with the name of the domain, or of the dataset if it is not the run's: ``cifar10/few_shot/5w1s/top1``. If the
        algorithm has `candidate_rates`, ``few_shot/5w1s/learning_rate`` is the one that was chosen on validation tasks.

        Raises:
            ValueError: If the test split has too few classes or images for a setting.
        """
        scores, dataset = {}, self.judged(splits)
        by_key = dict(self._keyed(dataset))
        with evaluating(algorithm):
            contender = Contender.of_algorithm(algorithm, dataset, list(by_key.values()), device)
            for key, tasks in by_key.items():
                with at_chosen_rate(algorithm, splits, tasks, self.seed, self.tasks_per_batch, device) as rate:
                    found = contender.accuracies(tasks, self.tasks_per_batch, device)
                if rate is not None:
                    scores[f"{key}/learning_rate"] = rate
                for way, accuracies in found.items():
                    name = f"{key}/{way}" if way else key
                    keep(name, accuracies)
                    scores[f"{name}/top1"] = accuracies.mean().item()
                    scores[f"{name}/ci95"] = interval(accuracies)
        return scores

    def judged(self, splits: Splits) -> Dataset:
        """The test split that tasks are drawn from: that of its own dataset, or else the run's."""
        return splits.test if self.target is None else self.target

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """Mean and interval of each setting, and of each of the algorithm's `classifiers`.

        For the run's own splits, domains are ignored: splits with domains have no validation split to select by.
        """
        names = [] if algorithm is None else [f"/{name}" for name in algorithm.classifiers]
        domains = () if self.target is None else self.target.domains
        keys = [self._key(domain, setting) for domain in domains or [None] for setting in self.settings]
        return [f"{key}{name}/{score}" for key in keys for name in ("", *names) for score in ("top1", "ci95")]

    def _key(self, domain: str | None, setting: Setting) -> str:
        """The key of a score, without its last part."""
        before = f"{domain}/" if domain else "" if self.target is None else f"{self.target.source}/"
        return f"{before}few_shot/{setting.name}"

    def _keyed(self, dataset: Dataset) -> Iterator[tuple[str, Tasks]]:
        for domain, setting, tasks in self.tasks(dataset).every():
            yield self._key(domain, setting), tasks

    def tasks(self, dataset: Dataset) -> FixedTasks:
        """The tasks of a dataset."""
        return FixedTasks(dataset, self.settings, self.episodes, self.seed, f"eval.{self.option}")

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Draw the tasks, and classify one of each setting with one query per class, to save time.

        Raises:
            ValueError: If ways, shots or classes do not fit, or the images of its own dataset do not have the shape
                that the encoder takes.
        """
        dataset = self.judged(splits)
        try:
            first = [tasks[:1].with_queries(1) for _, tasks in self._keyed(dataset)]
        except ConfigError as error:
            raise ConfigError([*error.problems, remedy(self.settings, self.n_query, dataset, self.option)]) from None
        refuse_shape(dataset, splits.train.images.shape[1:], f"eval.{self.option}")
        if algorithm is None:
            return
        with evaluating(algorithm), algorithm.rehearsing():
            contender = Contender.of_algorithm(algorithm, dataset, first, device)
            for task in first:
                contender.accuracies(task, 1, device)

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """Settings with the hashes of their tasks, episodes, seed, and whether the classes were seen in training.

        Classes of its own dataset count as seen if the run was trained on any of that dataset's images.
        """
        dataset = self.judged(splits)
        described = self.tasks(dataset).described()
        if self.target is None:  # it is already in the result
            del described["fingerprint"]
        seen = splits.by == "images" if self.target is None else shares_images(dataset, splits.train)
        return described | {"classes": "seen" if seen else "unseen"}

    def write_manifest(self, folder: Path, splits: Splits) -> None:
        """Write folder/tasks.safetensors: ``5w1s/support`` and ``5w1s/query`` of each setting, int32 (T, images).

        Numbers are indices in the test split; the hashes in `protocol` are computed from them. For its own dataset the
        file is ``tasks_DATASET.safetensors``. If there are domains, keys begin with the domain.
        """
        file = MANIFEST if self.target is None else MANIFEST.replace(".", f"_{self.target.source}.")
        self.tasks(self.judged(splits)).write(folder / file)


def interval(accuracies: Tensor) -> float:
    """Half the 95% interval of the mean of accuracies (n,): normal from n = 30 on, Student's t below."""
    n, quantile = len(accuracies), 1.96
    if n < 30:
        from scipy.stats import t as student  # slow to import

        quantile = float(student.ppf(0.975, n - 1))
    return quantile * accuracies.std().item() / math.sqrt(n)
