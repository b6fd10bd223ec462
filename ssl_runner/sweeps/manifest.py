"""The manifest of a sweep: its jobs with their resolved configs, written before the first one starts."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_runner.config.hashing import config_hash
from ssl_runner.config.schema import Config
from ssl_runner.errors import InvalidValue
from ssl_runner.runtime.atomic_write import write_atomically
from ssl_runner.sweeps.names import job_names

FILE, VERSION = "manifest.json", 1


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: Of its folder, below the sweep's.
        overrides: What was asked of it on the command line.
        config: Resolved and checked: what it runs with, whatever becomes of conf/.
        config_hash: Of all that can change the result.
        data: Fingerprint of the training data; None where it was not known beforehand.
    """

    name: str
    overrides: list[str]
    config: Config
    config_hash: str
    data: str | None


@dataclass(frozen=True)
class Manifest:
    """A sweep as it was asked for.

    Attributes:
        command: As it was typed.
        git: State of the code, as `provenance.git`.
        created: Time, ISO 8601.
        jobs: In the order of the command.
    """

    command: str
    git: dict[str, Any] | None
    created: str
    jobs: list[Job]

    @classmethod
    def of(
        cls,
        command: str,
        git: dict[str, Any] | None,
        overrides: Sequence[Sequence[str]],
        configs: Sequence[Config],
        data: Sequence[str | None],
    ) -> "Manifest":
        """Of jobs that were checked; of those with equal content, the first is kept.

        Args:
            overrides: Of each job.
            configs: Of each job.
            data: Fingerprint of each job's data, where it is known.
        """
        made = [
            Job(name, list(words), config, config_hash(config), fingerprint)
            for name, words, config, fingerprint in zip(job_names(overrides), overrides, configs, data, strict=True)
        ]
        different = {job.config_hash: job for job in reversed(made)}
        jobs = [job for job in made if different[job.config_hash] is job]
        return cls(command, git, time.strftime("%Y-%m-%dT%H:%M:%S%z"), jobs)

    @property
    def content(self) -> str:
        """Eight hex digits of what the jobs are, whatever their order."""
        jobs = sorted(job.config_hash for job in self.jobs)
        return hashlib.sha256(json.dumps(jobs).encode()).hexdigest()[:8]

    def write(self, folder: Path) -> None:
        """Write folder/manifest.json. Jobs share the top-level nodes of their configs, so that a file of 10,000 jobs
        stays small."""
        folder.mkdir(parents=True, exist_ok=True)
        nodes = _Nodes()
        jobs = [{**vars(job), "config": nodes.put(job.config)} for job in self.jobs]
        text = json.dumps({"version": VERSION, **vars(self), "nodes": nodes.known, "jobs": jobs})
        write_atomically(folder / FILE, lambda path: path.write_text(text, encoding="utf-8"))


class _Nodes:
    """The different values of the top-level keys of configs."""

    def __init__(self) -> None:
        self.known: list[Any] = []
        self._numbers: dict[str, int] = {}

    def put(self, config: Config) -> dict[str, int]:
        """The number of each value."""
        found = {}
        for key, value in config.items():
            text = json.dumps(value, sort_keys=True)
            if text not in self._numbers:
                self._numbers[text] = len(self.known)
                self.known.append(value)
            found[key] = self._numbers[text]
        return found


def read(folder: Path) -> Manifest:
    """The manifest of a sweep.

    Raises:
        FileNotFoundError: There is none.
        InvalidValue: It is damaged, or of another version.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("version")
        if version == VERSION:
            nodes = content.pop("nodes")
            jobs = [
                Job(**job | {"config": {key: nodes[number] for key, number in job["config"].items()}})
                for job in content.pop("jobs")
            ]
            return Manifest(**content, jobs=jobs)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InvalidValue(
            f"{path} is damaged ({error}); delete it and give the command again: finished jobs are recognised"
        ) from None
    raise InvalidValue(
        f"{path} is of version {version!r}, expected {VERSION}; give the command again with another hydra.sweep.dir: "
        "finished jobs are recognised"
    )
