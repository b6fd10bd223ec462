"""The episodes that every algorithm classifies: a function of dataset, setting, index and seed."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ssl_runner.data.dataset import Dataset
from ssl_runner.data.episodes.tasks import Tasks, TaskSampler
from ssl_runner.evaluation.setting import Setting
from ssl_runner.runtime import randomness
from ssl_runner.runtime.atomic_write import write_atomically


@dataclass(frozen=True)
class FixedTasks:
    """Episodes of one dataset. If its classes have domains, there are episodes of each domain.

    Attributes:
        dataset: The labelled dataset to draw from.
        settings: Ways, shots and queries.
        episodes: Number of tasks of each setting.
        seed: Seed of the tasks.
        where: Dotted key of the evaluator, for messages.
    """

    dataset: Dataset
    settings: Sequence[Setting]
    episodes: int
    seed: int
    where: str

    def __call__(self, setting: Setting, domain: str | None = None) -> Tasks:
        """All episodes of a setting, from one domain or from a dataset without domains.

        Raises:
            ValueError: If the dataset has too few classes or images for the setting, or no labels.
        """
        sampler = TaskSampler(
            self.dataset, setting.n_way, setting.k_shot, setting.n_query, f"{{}} of '{setting.name}' in {self.where}"
        )
        sampler = sampler if domain is None else sampler.within(domain)
        stream = f"few_shot/{setting.n_way}w{setting.k_shot}s{setting.n_query}q"
        return sampler(randomness.uniforms(self.seed, stream, 0, self.episodes, sampler.columns))

    def every(self) -> Iterator[tuple[str | None, Setting, Tasks]]:
        """Each domain (or None), setting, and their tasks."""
        for domain in self.dataset.domains or [None]:
            for setting in self.settings:
                yield domain, setting, self(setting, domain)

    def _named(self) -> Iterator[tuple[str, Setting, Tasks]]:
        """Each name, ``5w1s`` or with domains ``mnist/5w1s``, with its setting and tasks."""
        for domain, setting, tasks in self.every():
            yield f"{domain}/{setting.name}" if domain else setting.name, setting, tasks

    def described(self) -> dict[str, Any]:
        """A description for a protocol: source, settings with the hashes of their tasks, episodes, seed, interval."""
        settings = {
            name: {
                "n_way": setting.n_way,
                "k_shot": setting.k_shot,
                "n_query": setting.n_query,
                "tasks": manifest(tasks, self.dataset),
            }
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
            found[f"{name}/support"], found[f"{name}/query"] = tasks.support.int(), tasks.query.int()
        described = {"source": self.dataset.name, "fingerprint": self.dataset.fingerprint, "seed": str(self.seed)}
        write_atomically(path, lambda temporary: save_file(found, temporary, described))


def manifest(tasks: Tasks, dataset: Dataset) -> str:
    """SHA-256 of the tasks and of the data that they refer to."""
    digest = hashlib.sha256(f"{dataset.name} {dataset.fingerprint} {tasks.n_way}".encode())
    for indices in (tasks.support, tasks.query):
        digest.update(str(tuple(indices.shape)).encode())
        digest.update(indices.numpy().astype("<i8").tobytes())
    return digest.hexdigest()
