"""Whether training helps on an unseen dataset, compared with baselines that need no meta-learning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.batching.batching import on_device
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.baselines import nearest_mean, nearest_neighbour, of_pixels, ridge_regression
from ssl_runner.evaluation.contender import Contender
from ssl_runner.evaluation.fine_tuning import own_generators
from ssl_runner.evaluation.fixed_tasks import FixedTasks
from ssl_runner.evaluation.from_scratch import FromScratch
from ssl_runner.evaluation.gallery import labels_of
from ssl_runner.evaluation.paired import difference, keyed, mean, strongest_baseline
from ssl_runner.evaluation.setting import check_asked, of_one_size
from ssl_runner.evaluation.source_classifier import SourceClassifier, standardised
from ssl_runner.evaluation.timing import adaptation_ms
from ssl_runner.evaluation.unseen import refuse_seen, refuse_shape
from ssl_runner.models.features import evaluating, features
from ssl_runner.models.initialisation import initialised_anew
from ssl_runner.models.network import Encoder
from ssl_runner.runtime import progress, randomness

BASELINES = ("chance", "pixel_centroid", "pixel_neighbour", "pixel_ridge", "untrained", "supervised", "from_scratch")
TIMED = 20  # tasks whose median time is reported


class Verdict:
    """Accuracy on fixed episodes of an unseen dataset's test images, compared with baselines on the same episodes.

    The tasks are those of `FewShot` for the same dataset, setting and seed. The baselines, all on the same images:

    - ``chance``: one over the ways.
    - ``pixel_centroid``, ``pixel_neighbour``: nearest class mean, nearest image, by Euclidean distance of pixels.
    - ``pixel_ridge``: ridge regression on pixels (`baselines.ridge_regression`).
    - ``untrained``: nearest class mean on L2-normalised features of the encoder with new random weights.
    - ``supervised``: an encoder trained as an ordinary classifier of the source (`SourceClassifier`), then frozen; in
      each task, ridge regression on its features, standardised with those of source images.
    - ``from_scratch``: the encoder and a linear classifier trained on each support set (`FromScratch`), only for the
      first episodes, since it takes a second per episode.

    The main result is the difference to the strongest baseline, which is the strongest evidence against the algorithm
    (`paired.strongest_baseline`); "helped" means better than every baseline. It is chosen by the same episodes on which
    it is compared, which is conservative: its luck counts against the algorithm. Apart from that, no label of the
    judged images chooses anything.

    Args:
        dataset: The unseen dataset; all episodes are drawn from its test split.
        settings: Ways and shots, ``5w1s``, or with queries per class, ``5w1s1q``.
        n_query: Queries per class for settings that do not say.
        episodes: Number of tasks of each setting, at least 2.
        seed: Seed of the tasks, and of the baselines' random draws.
        tasks_per_batch: Number of tasks that are classified at once.
        ridge: Strength of both ridge regressions, above 0: lambda as a share of the support's mean squared distance
            from its mean.
        supervised_steps: Number of optimizer steps of `SourceClassifier`, at least 1.
        supervised_batch_size: Images in a step of `SourceClassifier`, at least 2.
        supervised_lr: Learning rate of the first step of `SourceClassifier`, above 0.
        scratch_episodes: Number of tasks of each setting that ``from_scratch`` learns, the first ones, at least 2.
        scratch_steps: Number of steps of `FromScratch` in each task, at least 1.
        scratch_lr: Adam's learning rate in `FromScratch`, above 0.

    Raises:
        ValueError: A number is out of range.
    """

    # it does not score the run's baselines, and nothing is selected by it: see `asked_again`
    final: ClassVar[bool] = True

    def __init__(
        self,
        dataset: Splits,
        settings: Sequence[str],
        n_query: int,
        episodes: int,
        seed: int,
        tasks_per_batch: int,
        ridge: float,
        supervised_steps: int,
        supervised_batch_size: int,
        supervised_lr: float,
        scratch_episodes: int,
        scratch_steps: int,
        scratch_lr: float,
    ) -> None:
        asked = check_asked("verdict", settings, n_query, episodes, seed, tasks_per_batch)
        self.settings = of_one_size(asked, "verdict")
        if scratch_episodes < 2:
            raise InvalidValue(f"eval.verdict.scratch_episodes={scratch_episodes}; an interval needs at least 2")
        if not ridge > 0:
            raise InvalidValue(f"eval.verdict.ridge={ridge}; give a number above 0, say 0.3")
        self.target = dataset.test
        self.name = dataset.test.source.replace("/", "_")
        self.tasks = FixedTasks(dataset.test, self.settings, episodes, seed, "eval.verdict")
        self.tasks_per_batch = tasks_per_batch
        self.scratch_episodes = min(scratch_episodes, episodes)
        self.ridge = ridge
        self.supervised = SourceClassifier(supervised_steps, supervised_batch_size, supervised_lr)
        self.from_scratch = FromScratch(scratch_steps, scratch_lr)

    def __call__(self, algorithm: Algorithm, splits: Splits, device: torch.device) -> dict[str, float]:
        """Accuracies, paired differences and times; for example, for dataset ``cifar10`` and setting ``5w1s``:

        - ``cifar10/few_shot/5w1s/top1`` and ``/ci95``: the algorithm's accuracy; its further `classifiers` have keys
          with their names, as in `FewShot`.
        - ``cifar10/verdict/5w1s/<baseline>/top1`` and ``/ci95``: a baseline's accuracy.
        - ``cifar10/paired/5w1s/<baseline>/difference`` and ``/ci95``: how much better the algorithm is than a baseline.
        - ``cifar10/paired/5w1s/difference`` and ``/ci95``: how much better it is than the strongest baseline.
        - ``time/cifar10/adaptation_ms/5w1s``: time in which the algorithm adapts to one task and classifies its
          queries.
        - ``time/cifar10/adaptation_ms/5w1s/from_scratch``: the same for a network trained from scratch.

        Raises:
            ValueError: If the algorithm cannot classify the tasks, or a baseline diverged.
        """
        scores, images = {}, self.target.images
        with own_generators(device), evaluating(algorithm):
            encoder = algorithm.eval_encoder()
            by_setting = {setting: self.tasks(setting) for setting in self.settings}
            contender = Contender.of_algorithm(algorithm, self.target, list(by_setting.values()), device)
            baselines = self._baselines(encoder, splits.train, device)
            for setting, tasks in by_setting.items():
                with progress.part(setting.name):
                    own = contender.accuracies(tasks, self.tasks_per_batch, device)
                    found = {"chance": torch.full((len(tasks),), 1 / setting.n_way, dtype=torch.float64)}
                    for baseline in baselines:
                        found[baseline.name] = baseline.accuracies(tasks, self.tasks_per_batch, device)[""]
                    few = tasks[: self.scratch_episodes]
                    found["from_scratch"], took = self.from_scratch.accuracies(
                        encoder, images, few, self.tasks.seed, device
                    )
                scores |= self._compared(setting.name, own, found)
                times = f"time/{self.name}/adaptation_ms/{setting.name}"
                scores[times] = adaptation_ms(algorithm, images, tasks[:TIMED], device)
                scores[f"{times}/from_scratch"] = took
        return scores

    def keys(self, algorithm: Algorithm | None = None) -> list[str]:
        """The keys of all scores. None of them selects a model, since the evaluator is `final`."""
        keys, ways = [], [""] if algorithm is None else ["", *(f"/{name}" for name in algorithm.classifiers)]
        for setting in (setting.name for setting in self.settings):
            accuracies = [f"few_shot/{setting}{way}" for way in ways]
            accuracies += [f"verdict/{setting}/{name}" for name in BASELINES]
            differences = [f"paired/{setting}{name}" for name in ("", *(f"/{name}" for name in BASELINES))]
            keys += [f"{self.name}/{key}/{score}" for key in accuracies for score in ("top1", "ci95")]
            keys += [f"{self.name}/{key}/{score}" for key in differences for score in ("difference", "ci95")]
            keys += [f"time/{self.name}/adaptation_ms/{setting}{name}" for name in ("", "/from_scratch")]
        return keys

    def check(self, algorithm: Algorithm | None, splits: Splits, device: torch.device) -> None:
        """Refuse images that were seen or that the encoder cannot take, and tasks that cannot be drawn or classified.

        Raises:
            ValueError: Something does not fit; the message gives the remedy.
        """
        refuse_seen(self.target, splits, "eval.verdict")
        encoder = None if algorithm is None else algorithm.eval_encoder()
        shape = tuple(splits.train.images.shape[1:]) if encoder is None else encoder.input_shape
        refuse_shape(self.target, shape, "eval.verdict")
        labels_of(splits.train)
        first = [self.tasks(setting)[:1].with_queries(1) for setting in self.settings]
        if algorithm is None or encoder is None:
            return
        with own_generators(device), evaluating(algorithm), algorithm.rehearsing():
            initialised_anew(encoder, 0)
            contender = Contender.of_algorithm(algorithm, self.target, first, device)
            for task in first:
                contender.accuracies(task, 1, device)

    def protocol(self, splits: Splits) -> dict[str, Any]:
        """Source, tasks, and descriptions of the baselines."""
        scratch, heads = self.from_scratch, f"ridge regression, lambda {self.ridge:g} of the support's spread"
        recipes = {
            "chance": "one over the ways",
            "pixel_centroid": "nearest class mean, Euclidean distance of pixels",
            "pixel_neighbour": "nearest image, Euclidean distance of pixels",
            "pixel_ridge": f"{heads}, on pixels",
            "untrained": "the architecture with new weights; nearest class mean of L2-normalised features",
            "supervised": f"{self.supervised.recipe(splits.train)}; frozen; {heads}, on features standardised by "
            "source images",
            "from_scratch": scratch.recipe(),
        }
        few = {"from_scratch": self.scratch_episodes}
        return {
            "name": self.name,
            **self.tasks.described(),
            "trained_on": splits.train.name,
            "classes": "unseen",
            "paired": "the algorithm's accuracy minus the baseline's, episode by episode; the strongest baseline is "
            "the one that is the strongest evidence against the algorithm, chosen by these episodes: conservative",
            "baselines": {
                name: {"recipe": recipe, "episodes": few.get(name, self.tasks.episodes)}
                for name, recipe in recipes.items()
            },
        }

    def write_manifest(self, folder: Path, splits: Splits) -> None:
        """Write the episodes to folder/tasks_cifar10.safetensors, like `FewShot.write_manifest`."""
        self.tasks.write(folder / f"tasks_{self.name}.safetensors")

    def _baselines(self, encoder: Encoder, source: Dataset, device: torch.device) -> list[Contender]:
        """The baselines that classify all episodes, in order."""
        images = on_device(self.target.images, device)
        untrained = initialised_anew(encoder, randomness.number(self.tasks.seed, "verdict/untrained", 0))
        supervised = self.supervised.train(encoder, source, self.tasks.seed, device)
        ridge = ridge_regression(self.ridge)
        found = {
            "pixel_centroid": (images, of_pixels(nearest_mean)),
            "pixel_neighbour": (images, of_pixels(nearest_neighbour)),
            "pixel_ridge": (images, of_pixels(ridge)),
            "untrained": (F.normalize(features(untrained, self.target.images, device), dim=1), nearest_mean),
            "supervised": (standardised(supervised, self.target, source, device), ridge),
        }
        return [Contender.of_rule(name, values, rule) for name, (values, rule) in found.items()]

    def _compared(self, setting: str, own: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, float]:
        scores = {}
        for way, values in own.items():
            scores |= keyed(f"{self.name}/few_shot/{setting}" + (f"/{way}" if way else ""), mean(values))
        for name, values in found.items():
            scores |= keyed(f"{self.name}/verdict/{setting}/{name}", mean(values))
        for name, values in {
            "": found[strongest_baseline(own[""], found)],
            **{f"/{name}": found[name] for name in found},
        }.items():
            scores |= keyed(f"{self.name}/paired/{setting}{name}", difference(own[""], values))
        return scores
