"""Few-shot classification on fixed tasks, the same for every algorithm."""

import hashlib
import math
from collections.abc import Iterator, Sequence
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
from ssl_runner.evaluation.setting import Setting, remedy
from ssl_runner.evaluation.unseen import refuse_shape

MANIFEST = "tasks.safetensors"


class FewShot:
    """Mean accuracy over episodes drawn from the test split, with its 95% interval.

    The tasks are a function of dataset, setting, episodes' places and seed: every algorithm is asked the same ones, by
    chunks of any size. Of a test split whose classes have domains, each domain is judged by itself.

    With a dataset of its own the evaluator judges that one's test split, and says so in its keys: this is how what was
    learned from one dataset is asked about another. Its option is then called ``few_shot_DATASET``.

    Args:
        settings: Ways and shots, ``5w1s``, or with queries per class, ``5w1s1q``.
        n_query: Queries per class of a setting that does not say.
        episodes: Tasks of each setting, at least 2.
        seed: Of the tasks.
        tasks_per_batch: Tasks that are classified at once.
        dataset: Another dataset than the run's, of images of the same shape, or None.

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
        if episodes < 2:
            raise ValueError(f"eval.{self.option}.episodes={episodes}; an interval needs at least 2")
        if not settings:
            otherwise = f"leave {self.option} out of eval=[...]"
            raise ValueError(f"eval.{self.option}.settings=[] asks for nothing; give [5w1s], or {otherwise}")
        if len(set(settings)) < len(settings):
            raise ValueError(f"eval.{self.option}.settings={list(settings)} names one twice; name each once")
        for name, value in {"n_query": n_query, "tasks_per_batch": tasks_per_batch}.items():
            if value < 1:
                raise ValueError(f"eval.{self.option}.{name}={value}; it must be at least 1")
        randomness.check_seed(seed, f"eval.{self.option}.seed")
        self.settings = [Setting.parse(setting, n_query, self.option) for setting in settings]
        self.n_query = n_query
        self.episodes = episodes
        self.seed = seed
        self.tasks_per_batch = tasks_per_batch

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """``few_shot/5w1s/top1`` and ``few_shot/5w1s/ci95`` for each setting, as the algorithm is configured.

        Beside them, for each of the algorithm's `classifiers`, ``few_shot/5w1s/<name>/top1`` and ``.../ci95``. Before
        them stands the name of the domain, or of the dataset that is not the run's: ``cifar10/few_shot/5w1s/top1``.

        Raises:
            ValueError: If the test split has too few classes or images for a setting.
        """
        scores, dataset = {}, self.judged(splits)
        with evaluating(algorithm):
            for key, _, tasks in self._every_tasks(dataset):
                configured = self.accuracies(algorithm, dataset, tasks, device)
                found = {key: configured}
                for name, classify in algorithm.classifiers().items():
                    same = classify == algorithm.classify  # the configured way, under its name
                    way = f"{key}/{name}"
                    found[way] = configured if same else self._right(classify, name, dataset, tasks, device)
                for way, accuracies in found.items():
                    scores[f"{way}/top1"] = accuracies.mean().item()
                    scores[f"{way}/ci95"] = interval(accuracies)
        return scores

    def judged(self, splits: Splits) -> Dataset:
        """The test split that tasks are drawn from: its own dataset's, or else the run's."""
        return splits.test if self.target is None else self.target

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """Mean and interval of each setting, and of each of the algorithm's `classifiers`.

        Of the run's own splits those without domains are meant; those with domains have no validation to select by.
        """
        names = [] if algorithm is None else [f"/{name}" for name in algorithm.classifiers()]
        ways = [
            f"{prefix}few_shot/{setting.name}{name}"
            for prefix, _ in self._domains(self.target)
            for setting in self.settings
            for name in ("", *names)
        ]
        return [f"{way}/{score}" for way in ways for score in ("top1", "ci95")]

    def _domains(self, dataset: Dataset | None) -> list[tuple[str, str | None]]:
        """What stands before the keys, and the domain that is meant, for each domain of the judged dataset."""
        if dataset is not None and dataset.domains:
            return [(f"{domain}/", domain) for domain in dataset.domains]
        return [("" if self.target is None else f"{self.target.source}/", None)]

    def _every_tasks(self, dataset: Dataset) -> Iterator[tuple[str, str, Tasks]]:
        """For each domain and setting, the key of its scores, its name in protocol and manifest, and its tasks."""
        for prefix, domain in self._domains(dataset):
            for setting in self.settings:
                name = setting.name if domain is None else f"{domain}/{setting.name}"
                yield f"{prefix}few_shot/{setting.name}", name, self.tasks(setting, dataset, domain)

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Draw tasks and classify one of each setting; raises ValueError where ways, shots or classes do not fit.

        Or where the images of its own dataset are not of the shape that the encoder takes.
        """
        dataset = self.judged(splits)
        try:
            first = [tasks[:1] for _, _, tasks in self._every_tasks(dataset)]
        except ConfigError as error:
            raise ConfigError([*error.problems, remedy(self.settings, self.n_query, dataset, self.option)]) from None
        refuse_shape(dataset, splits.train.images.shape[1:], f"eval.{self.option}")
        if algorithm is None:
            return
        with evaluating(algorithm):
            for task in first:
                self._right(algorithm.classify, f"{type(algorithm).__name__}.classify", dataset, task, device)
                for name, classify in algorithm.classifiers().items():
                    if classify != algorithm.classify:
                        self._right(classify, name, dataset, task, device)

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """Settings with the hashes of their tasks, episodes, seed, and whether the classes were seen in training.

        Of a dataset of its own, they count as seen where the run was trained on any of its images.
        """
        dataset, settings = self.judged(splits), {}
        trained = set(dataset.source.split("+")) & set(splits.train.source.split("+"))
        for _, name, tasks in self._every_tasks(dataset):
            settings[name] = {
                "n_way": tasks.n_way,
                "k_shot": tasks.support.shape[1] // tasks.n_way,
                "n_query": tasks.query.shape[1] // tasks.n_way,
                "tasks": manifest(tasks, dataset),
            }
        return {
            "source": dataset.name,
            **({} if self.target is None else {"fingerprint": dataset.fingerprint}),
            "classes": "seen" if (splits.by == "images" if self.target is None else trained) else "unseen",
            "episodes": self.episodes,
            "seed": self.seed,
            "interval": "95%, " + ("1.96 std / sqrt(n)" if self.episodes >= 30 else "Student's t"),
            "settings": settings,
        }

    def write_manifest(self, folder: Path, splits: Splits) -> None:
        """Write folder/tasks.safetensors: ``5w1s/support`` and ``5w1s/query`` of each setting, int32 (T, images).

        Numbers are places in the test split; the hashes in `protocol` are of them. Of a dataset of its own the file is
        ``tasks_DATASET.safetensors``; where there are domains, their names stand before those of the settings.
        """
        found, dataset = {}, self.judged(splits)
        for _, name, tasks in self._every_tasks(dataset):
            found[f"{name}/support"], found[f"{name}/query"] = tasks.support.int(), tasks.query.int()
        described = {"source": dataset.name, "fingerprint": dataset.fingerprint, "seed": str(self.seed)}
        file = MANIFEST if self.target is None else MANIFEST.replace(".", f"_{self.target.source}.")
        write_atomically(folder / file, lambda path: save_file(found, path, described))

    def tasks(self, setting: Setting, dataset: Dataset, domain: str | None = None) -> Tasks:
        """All episodes of a setting, of one domain or of a dataset without any."""
        sampler = TaskSampler(
            dataset, setting.n_way, setting.k_shot, setting.n_query, f"{{}} of '{setting.name}' in eval.{self.option}"
        )
        sampler = sampler if domain is None else sampler.within(domain)
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
