"""Few-shot classification on fixed tasks, the same for every algorithm."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Dataset, Splits, every
from ssl_runner.data.episodes.tasks import Tasks
from ssl_runner.data.episodes.varied_tasks import VariedTasks
from ssl_runner.errors import ConfigError
from ssl_runner.evaluation.answers import keep
from ssl_runner.evaluation.chosen_rate import at_chosen_rate
from ssl_runner.evaluation.classifiers.chosen import Chosen
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier
from ssl_runner.evaluation.classifiers.encoded import Encoded
from ssl_runner.evaluation.fixed_tasks import FixedTasks
from ssl_runner.evaluation.setting import AnySetting, check_asked, remedy
from ssl_runner.evaluation.source_classifier import LOOKED_AT
from ssl_runner.evaluation.unseen import refuse_shape, shares_images
from ssl_runner.models.features import evaluating
from ssl_runner.runtime import progress

MANIFEST = "tasks.safetensors"
NONE: Mapping[str, TaskClassifier] = MappingProxyType({})


class FewShot:
    """Mean accuracy over episodes drawn from the test split, with its 95% interval.

    The tasks are a function of dataset, setting, episode index and seed, so every algorithm gets the same ones,
    whatever the number of tasks per batch. If the classes of the test split have domains, each domain is scored
    separately.

    With its own dataset, the evaluator uses the test split of that dataset, and its keys say so. This measures transfer
    from one dataset to another. Its option is then called ``few_shot_DATASET``.

    Args:
        settings: Ways and shots, ``5w1s``, or with queries per class, ``5w1s1q``. ``varied`` draws ways, shots and
            imbalance for each task, as Meta-Dataset does (`VariedTaskSampler`).
        n_query: Queries per class for settings that do not say; ``varied`` has its own.
        episodes: Number of tasks of each setting, at least 2.
        seed: Seed of the tasks.
        tasks_per_batch: Number of tasks that are classified at once, if they have the same sizes.
        dataset: A dataset other than the run's, with images of the same shape, or None.
        classifier: How tasks are classified: a name of ``classifiers``; several, which are compared with the first on
            the same episodes; or null for ``own``, as the algorithm does it.
        classifiers: The classifiers that can be chosen, with their values.

    Attributes:
        target: The test split of that dataset, or None.
        chosen: The classifiers that were asked for.
    """

    def __init__(
        self,
        settings: Sequence[str],
        n_query: int,
        episodes: int,
        seed: int,
        tasks_per_batch: int,
        dataset: Splits | None = None,
        classifier: str | Sequence[str] | None = None,
        classifiers: Mapping[str, TaskClassifier | None] = NONE,
    ) -> None:
        self.target = None if dataset is None else dataset.test
        self.option = "few_shot" if self.target is None else f"few_shot_{self.target.source}"
        self.settings = check_asked(self.option, settings, n_query, episodes, seed, tasks_per_batch)
        self.chosen = Chosen.of(classifier, classifiers, self.option)
        self.n_query = n_query
        self.episodes = episodes
        self.seed = seed
        self.tasks_per_batch = tasks_per_batch

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """``few_shot/5w1s/top1`` and ``few_shot/5w1s/ci95`` for each setting, as the algorithm is configured.

        For each of the algorithm's `classifiers`, also ``few_shot/5w1s/<name>/top1`` and ``.../ci95``. The keys begin
        with the name of the domain, or of the dataset if it is not the run's: ``cifar10/few_shot/5w1s/top1``. If the
        algorithm has `candidate_rates`, ``few_shot/5w1s/learning_rate`` is the one that was chosen on validation tasks.

        Chosen classifiers have keys with their names, ``few_shot/5w1s/centroid/top1``, and transductive ones say so:
        ``few_shot/5w1s/tim_transductive/top1``. Of several, each but the first has its paired difference to the first,
        ``few_shot/5w1s/tim_transductive/minus_centroid/difference`` and ``.../ci95``.

        Raises:
            ValueError: If the test split has too few classes or images for a setting.
        """
        dataset = self.judged(splits)
        by_key = dict(self._keyed(dataset))
        found: dict[str, dict[str, Tensor]] = {key: {} for key in by_key}
        rates: dict[str, float] = {}
        with evaluating(algorithm):
            encoded = self._encoded(algorithm, dataset, list(by_key.values()), splits, device, LOOKED_AT)
            for name, contender in self.chosen.contenders(algorithm, encoded):
                for key, tasks in by_key.items():
                    own = (
                        nullcontext()
                        if name
                        else at_chosen_rate(algorithm, splits, tasks, self.seed, self.tasks_per_batch, device)
                    )
                    with progress.part(" ".join(filter(None, (key.replace("few_shot/", ""), name)))), own as rate:
                        right = contender.accuracies(tasks, self.tasks_per_batch, device)
                    if rate is not None:
                        rates[f"{key}/learning_rate"] = rate
                    found[key] |= {name or way: accuracies for way, accuracies in right.items()}
        scores = dict(rates)
        for key, accuracies in found.items():
            for way, values in accuracies.items():
                keep(f"{key}/{way}" if way else key, values)
            scores |= {f"{key}/{score}": value for score, value in self.chosen.scores(accuracies).items()}
        return scores

    def judged(self, splits: Splits) -> Dataset:
        """The test split that tasks are drawn from: that of its own dataset, or else the run's."""
        return splits.test if self.target is None else self.target

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """The keys of each setting, for each classifier, or each of the algorithm's `classifiers`.

        For the run's own splits, domains are ignored: splits with domains have no validation split to select by.
        """
        domains = () if self.target is None else self.target.domains
        keys = [self._key(domain, setting) for domain in domains or [None] for setting in self.settings]
        return [f"{key}/{score}" for key in keys for score in self.chosen.keys(algorithm)]

    def _key(self, domain: str | None, setting: AnySetting) -> str:
        """The key of a score, without its last part."""
        before = f"{domain}/" if domain else "" if self.target is None else f"{self.target.source}/"
        return f"{before}few_shot/{setting.name}"

    def _keyed(self, dataset: Dataset) -> Iterator[tuple[str, Tasks | VariedTasks]]:
        for domain, setting, tasks in self.tasks(dataset).every():
            yield self._key(domain, setting), tasks

    def _encoded(
        self,
        algorithm: Algorithm,
        dataset: Dataset,
        tasks: Sequence[Tasks | VariedTasks],
        splits: Splits,
        device: torch.device,
        most: int,
    ) -> Encoded:
        """What classifiers may use, with at most this number of training images, evenly spread."""
        training = every(splits.train.images, -(-len(splits.train) // most))
        return Encoded(algorithm.eval_encoder(), dataset, tasks, training, device)

    def tasks(self, dataset: Dataset) -> FixedTasks:
        """The tasks of a dataset."""
        return FixedTasks(dataset, self.settings, self.episodes, self.seed, f"eval.{self.option}")

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Draw the tasks, and classify one of each setting with one query per class, in few steps, to save time.

        Raises:
            ValueError: If ways, shots or classes do not fit, a classifier refuses the encoder, or the images of its own
                dataset do not have the shape that the encoder takes.
        """
        dataset = self.judged(splits)
        try:
            first = [tasks.probe() for _, tasks in self._keyed(dataset)]
        except ConfigError as error:
            raise ConfigError([*error.problems, remedy(self.settings, self.n_query, dataset, self.option)]) from None
        refuse_shape(dataset, splits.train.images.shape[1:], f"eval.{self.option}")
        if algorithm is None:
            return
        with evaluating(algorithm), algorithm.rehearsing():
            encoded = self._encoded(algorithm, dataset, first, splits, device, most=1)
            for _, contender in self.chosen.shortened().contenders(algorithm, encoded):
                for task in first:
                    contender.accuracies(task, 1, device)

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """Settings with the hashes of their tasks, episodes, seed, classifiers, and whether the classes were seen.

        Classes of its own dataset count as seen if the run was trained on any of that dataset's images.
        """
        dataset = self.judged(splits)
        described = self.tasks(dataset).described() | self.chosen.described()
        if self.target is None:  # it is already in the result
            del described["fingerprint"]
        seen = splits.by == "images" if self.target is None else shares_images(dataset, splits.train)
        return described | {"classes": "seen" if seen else "unseen"}

    def write_manifest(self, folder: Path, splits: Splits) -> None:
        """Write folder/tasks.safetensors: ``5w1s/support`` and ``5w1s/query`` of each setting, as `stored` describes.

        Numbers are indices in the test split; the hashes in `protocol` are computed from them. For its own dataset the
        file is ``tasks_DATASET.safetensors``. If there are domains, keys begin with the domain.
        """
        file = MANIFEST if self.target is None else MANIFEST.replace(".", f"_{self.target.source}.")
        self.tasks(self.judged(splits)).write(folder / file)
