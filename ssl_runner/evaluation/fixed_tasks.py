"""The episodes that every algorithm classifies: a function of dataset, setting, index and seed."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.tasks import Tasks, TaskSampler
from ssl_runner.data.episodes.varied_tasks import VariedTasks, VariedTaskSampler
from ssl_runner.evaluation.setting import AnySetting, Setting, VariedSetting
from ssl_runner.runtime import randomness
from ssl_runner.runtime.atomic_write import write_atomically


@dataclass(frozen=True)
class FixedTasks:
    """Episodes of one dataset. If its classes have domains, there are episodes of each domain.

    Attributes:
        dataset: The labelled dataset to draw from.
        settings: Ways, shots and queries, or that these are drawn for each task.
        episodes: Number of tasks of each setting.
        seed: Seed of the tasks.
        where: Dotted key of the evaluator, for messages.
    """

    dataset: Dataset
    settings: Sequence[AnySetting]
    episodes: int
    seed: int
    where: str

    @overload
    def __call__(self, setting: Setting, domain: str | None = None) -> Tasks: ...

    @overload
    def __call__(self, setting: VariedSetting, domain: str | None = None) -> VariedTasks: ...

    def __call__(self, setting: AnySetting, domain: str | None = None) -> Tasks | VariedTasks:
        """All episodes of a setting, from one domain or from a dataset without domains.

        Raises:
            ValueError: If the dataset has too few classes or images for the setting, or no labels.
        """
        if isinstance(setting, VariedSetting):
            return self._varied(setting, domain)
        sampler = TaskSampler(
            self.dataset, setting.n_way, setting.k_shot, setting.n_query, f"{{}} of '{setting.name}' in {self.where}"
        )
        sampler = sampler if domain is None else sampler.within(domain)
        stream = f"few_shot/{setting.n_way}w{setting.k_shot}s{setting.n_query}q"
        return sampler(randomness.uniforms(self.seed, stream, 0, self.episodes, sampler.columns))

    def _varied(self, setting: VariedSetting, domain: str | None) -> VariedTasks:
        leave = f"leave '{setting.name}' out of {self.where}.settings"
        sampler = VariedTaskSampler(self.dataset, setting.limits, leave)
        sampler = sampler if domain is None else sampler.within(domain)
        stream = f"few_shot/{setting.name}"
        return VariedTasks(tuple(sampler(self.seed, stream, number) for number in range(self.episodes)))

    def every(self) -> Iterator[tuple[str | None, AnySetting, Tasks | VariedTasks]]:
        """Each domain (or None), setting, and their tasks."""
        for domain in self.dataset.domains or [None]:
            for setting in self.settings:
                yield domain, setting, self(setting, domain)

    def _named(self) -> Iterator[tuple[str, AnySetting, Tasks | VariedTasks]]:
        """Each name, ``5w1s`` or with domains ``mnist/5w1s``, with its setting and tasks."""
        for domain, setting, tasks in self.every():
            yield f"{domain}/{setting.name}" if domain else setting.name, setting, tasks

    def described(self) -> dict[str, Any]:
        """A description for a protocol: source, settings with the hashes of their tasks, episodes, seed, interval."""
        settings = {
            name: setting.described() | {"tasks": manifest(tasks, self.dataset)}
            for name, setting, tasks in self._named()
        }
        return {
            "source": self.dataset.name,
            "fingerprint": self.dataset.fingerprint,
            "episodes": self.episodes,
            "seed": self.seed,
            "interval": "95%, " + ("1.96 std / sqrt(n)" if self.episodes >= 30 else "Student's t"),
            "settings": settings,
        }

    def write(self, path: Path) -> None:
        """Write ``5w1s/support`` and ``5w1s/query`` of each setting, int32 (T, images), into a safetensors file.

        Numbers are indices in the dataset; the hashes in `described` are computed from them. If there are domains, keys
        begin with the domain.
        """
        found = {}
        for name, _, tasks in self._named():
            found |= {f"{name}/{key}": value for key, value in stored(tasks).items()}
        described = {"source": self.dataset.name, "fingerprint": self.dataset.fingerprint, "seed": str(self.seed)}
        write_atomically(path, lambda temporary: save_file(found, temporary, described))


def stored(tasks: Tasks | VariedTasks) -> dict[str, Tensor]:
    """Tasks as tensors for a file. Numbers are indices in the dataset; the `manifest` is computed from them.

    ``support`` and ``query``, int32 (T, images). Of tasks of different sizes, these are one after another, int32 (M,),
    with the ways and the queries per class of each task, int32 (T,), and the shots of each class of each task, int32
    (sum of the ways,).
    """
    if isinstance(tasks, Tasks):
        return {"support": tasks.support.int(), "query": tasks.query.int()}
    sizes = [(task.n_way, task.query.shape[1] // task.n_way) for task in tasks.tasks]
    ways, queries = torch.tensor(sizes, dtype=torch.int32).unbind(dim=1)
    return {
        "support": torch.cat([task.support.flatten() for task in tasks.tasks]).int(),
        "query": torch.cat([task.query.flatten() for task in tasks.tasks]).int(),
        "n_way": ways.contiguous(),
        "n_query": queries.contiguous(),
        "shots": torch.cat([task.shots for task in tasks.tasks if task.shots is not None]).int(),
    }


def manifest(tasks: Tasks | VariedTasks, dataset: Dataset) -> str:
    """SHA-256 of the tasks and of the data that they refer to."""
    ways = str(tasks.n_way) if isinstance(tasks, Tasks) else "varied"
    digest = hashlib.sha256(f"{dataset.name} {dataset.fingerprint} {ways}".encode())
    for values in stored(tasks).values():
        digest.update(str(tuple(values.shape)).encode())
        digest.update(values.numpy().astype("<i8").tobytes())
    return digest.hexdigest()
