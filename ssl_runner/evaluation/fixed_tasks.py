"""The episodes that every algorithm is asked: a function of dataset, setting, places and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ssl_runner import randomness
from ssl_runner.checkpoint import write_atomically
from ssl_runner.data.dataset import Dataset
from ssl_runner.data.tasks import Tasks, TaskSampler
from ssl_runner.evaluation.few_shot import Setting, manifest


@dataclass(frozen=True)
class FixedTasks:
    """Episodes of one dataset; `FewShot` draws the same.

    Attributes:
        dataset: Labelled, to draw from.
        settings: Ways, shots and queries.
        episodes: Tasks of each setting.
        seed: Of the tasks.
        where: Dotted key of the evaluator, for messages.
    """

    dataset: Dataset
    settings: Sequence[Setting]
    episodes: int
    seed: int
    where: str

    def __call__(self, setting: Setting) -> Tasks:
        """All episodes of a setting.

        Raises:
            ValueError: If the dataset has too few classes or images for it, or no labels.
        """
        sampler = TaskSampler(
            self.dataset, setting.n_way, setting.k_shot, setting.n_query, f"{{}} of '{setting.name}' in {self.where}"
        )
        stream = f"few_shot/{setting.n_way}w{setting.k_shot}s{setting.n_query}q"
        return sampler(randomness.uniforms(self.seed, stream, 0, self.episodes, sampler.columns))

    def described(self) -> dict[str, Any]:
        """For a protocol: source, settings with the hashes of their tasks, episodes, seed, kind of interval."""
        settings = {
            setting.name: {
                "n_way": setting.n_way,
                "k_shot": setting.k_shot,
                "n_query": setting.n_query,
                "tasks": manifest(self(setting), self.dataset),
            }
            for setting in self.settings
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
        """``5w1s/support`` and ``5w1s/query`` of each setting, int32 (T, images), into a safetensors file.

        Numbers are places in the dataset; the hashes in `described` are of them.
        """
        found = {}
        for setting in self.settings:
            tasks = self(setting)
            found[f"{setting.name}/support"], found[f"{setting.name}/query"] = tasks.support.int(), tasks.query.int()
        described = {"source": self.dataset.name, "fingerprint": self.dataset.fingerprint, "seed": str(self.seed)}
        write_atomically(path, lambda temporary: save_file(found, temporary, described))
