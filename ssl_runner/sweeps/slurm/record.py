"""Which SLURM task has which job of a sweep: ``slurm.json`` in the sweep's folder."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ssl_runner.errors import InvalidValue
from ssl_runner.runtime.atomic_write import write_atomically
from ssl_runner.sweeps.slurm.queue import Task

FILE, VERSION = "slurm.json", 1


@dataclass
class Submission:
    """Jobs that were submitted together.

    Attributes:
        name: Of the SLURM job; no other has it.
        jobs: Names of the sweep's jobs, in the order of the array's tasks.
        id: SLURM's number; None until SLURM has answered.
    """

    name: str
    jobs: list[str]
    id: str | None = None

    def task(self, place: int) -> str | None:
        """The id of a job's task: ``17_3``, or ``17`` for a job that was submitted alone."""
        return self.id if self.id is None or len(self.jobs) == 1 else f"{self.id}_{place}"


class Record:
    """All submissions of a sweep, the latest last.

    It is written before jobs are submitted and once more after: jobs of a command that was killed in between are
    found in the queue by their name.

    Args:
        folder: The sweep's.

    Raises:
        InvalidValue: The file is damaged, or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.submissions: list[Submission] = []
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']!r}, expected {VERSION}")
            self.submissions = [Submission(**one) for one in content["submissions"]]
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidValue(
                f"{self.path} is damaged ({error}); cancel the sweep's jobs that squeue shows, delete the file and "
                "give the command again: finished jobs are recognised"
            ) from None

    def begin(self, jobs: Sequence[str]) -> Submission:
        """Write that jobs are about to be submitted."""
        begun = Submission(f"{self.path.parent.name}-{secrets.token_hex(3)}", list(jobs))
        self.submissions.append(begun)
        self.write()
        return begun

    def drop(self, begun: Submission) -> None:
        """Write that jobs were not submitted after all."""
        self.submissions.remove(begun)
        self.write()

    def settle(self, queue: Mapping[str, Task]) -> None:
        """Complete what a killed command has left, from the names of the tasks in the queue."""
        left = [one for one in self.submissions if one.id is None]
        if not left:
            return
        numbers = {task.name: number.partition("_")[0] for number, task in queue.items()}
        for one in left:
            one.id = numbers.get(one.name)
        self.submissions = [one for one in self.submissions if one.id is not None]
        self.write()

    def tasks(self) -> dict[str, str]:
        """The id of each submitted job's latest task."""
        found = {}
        for one in self.submissions:
            for place, job in enumerate(one.jobs):
                number = one.task(place)
                if number is not None:
                    found[job] = number
        return found

    def write(self) -> None:
        text = json.dumps({"version": VERSION, "submissions": [asdict(one) for one in self.submissions]}, indent=1)
        write_atomically(self.path, lambda path: path.write_text(text + "\n", encoding="utf-8"))
