"""Optuna's study of a search, in a journal in the sweep's folder.

The caller holds the sweep (`sweep.held`), so that one process at a time writes.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_runner.errors import InvalidValue
from ssl_runner.runtime.atomic_write import write_atomically
from ssl_runner.sweeps.search.settings import Search
from ssl_runner.sweeps.search.spaces import Space, grid

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

FILE = "study.journal"
_JOB, _REASON, _ABANDONED = "job", "reason", "abandoned"


@dataclass(frozen=True)
class Asked:
    """A trial that has begun.

    Attributes:
        number: In the study.
        index: Among the trials of the search, which leaves out those that a kill left half drawn.
        values: Of each space, by key.
    """

    number: int
    index: int
    values: dict[str, Any]


class Study:
    """The trials of a search: drawn, reported on, and ended.

    Each draw has a seed of its own, made of the search's and the trial's index: after a kill, the next draw is what it
    would have been.

    Args:
        folder: Of the sweep.
        content: Names what is searched; a journal of another search is refused.
        search: Settings.
        spaces: Of each key.

    Raises:
        InvalidValue: The folder has the journal of another search, or a damaged one.
    """

    def __init__(self, folder: Path, content: str, search: Search, spaces: Sequence[Space]) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search, self.spaces = search, spaces
        self.distributions = {space.key: space.distribution() for space in spaces}
        path = folder / FILE
        _cut_last_line(path)
        lock: Any = _Held()
        try:
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
            others = set(optuna.get_all_study_names(storage)) - {content}
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise InvalidValue(
                f"{path} is damaged ({error}); delete it and give the command again: finished trials are recognised"
            ) from None
        if others:
            raise InvalidValue(f"{folder} holds another search; give another hydra.sweep.dir, or leave it out")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                storage=storage,
                study_name=content,
                direction=search.direction,
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(search.prune_after_trials, search.prune_after_steps),
            )
        self.handles: dict[int, Trial] = {}

    @property
    def trials(self) -> "list[FrozenTrial]":
        """The trials of the search, in their order."""
        found = self.study.get_trials(deepcopy=False)
        return [one for one in found if _ABANDONED not in one.user_attrs]

    @property
    def best(self) -> "FrozenTrial | None":
        """The complete trial with the best figure; of equal ones, the first."""
        done = [one for one in self.trials if one.state.name == "COMPLETE" and one.value is not None]
        sign = -1 if self.search.direction == "maximize" else 1
        return min(done, key=lambda one: (sign * (one.value or 0.0), one.number), default=None)

    def count(self, state: str) -> int:
        """How many trials have this state, ``COMPLETE``, ``PRUNED``, ``FAIL`` or ``RUNNING``."""
        return sum(one.state.name == state for one in self.trials)

    def ask(self) -> Asked:
        """Begin a trial."""
        index = len(self.trials)
        self.study.sampler = self._sampler(index)
        trial = self.study.ask(self.distributions)
        self.handles[trial.number] = trial
        return Asked(trial.number, index, trial.params)

    def _sampler(self, index: int) -> Any:
        import optuna
        from optuna.samplers import CmaEsSampler, PartialFixedSampler, RandomSampler, TPESampler

        seed = int(hashlib.sha256(f"{self.search.seed}/{index}".encode()).hexdigest()[:7], 16)
        startup = self.search.startup_trials
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.search.sampler == "grid":
                return PartialFixedSampler(dict(grid(self.spaces, index)), RandomSampler(seed=seed))
            if self.search.sampler == "cmaes":
                return CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
            if self.search.sampler == "tpe":
                # trials at work count as bad ones, so that several at once do not all try the same
                return TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
            return RandomSampler(seed=seed)

    def attach(self, number: int, job: str) -> None:
        """Note which job a trial is."""
        self._handle(number).set_user_attr(_JOB, job)

    def job(self, trial: "FrozenTrial") -> str | None:
        """The name of the job that a trial is."""
        return trial.user_attrs.get(_JOB)

    def reason(self, trial: "FrozenTrial") -> str:
        """Why a trial failed."""
        return trial.user_attrs.get(_REASON, "")

    def report(self, number: int, step: int, value: float) -> bool:
        """Note a figure, once for each step; returns whether the trial is worse than the others were at this step."""
        trial = self._handle(number)
        if step in self.study.get_trials(deepcopy=False)[number].intermediate_values:
            return False
        trial.report(value, step)
        return self.search.prune and trial.should_prune()

    def complete(self, number: int, value: float) -> None:
        """A trial has ended with this figure."""
        self._tell(number, "COMPLETE", value)

    def prune(self, number: int) -> None:
        """A trial was stopped, since its figures are bad."""
        self._tell(number, "PRUNED")

    def fail(self, number: int, reason: str) -> None:
        """A trial has failed."""
        self._handle(number).set_user_attr(_REASON, reason)
        self._tell(number, "FAIL")

    def abandon(self, number: int) -> None:
        """A trial was half drawn when the process was killed; it does not count, and is drawn once more."""
        self._handle(number).set_user_attr(_ABANDONED, True)
        self._tell(number, "FAIL")

    def _tell(self, number: int, state: str, value: float | None = None) -> None:
        from optuna.trial import TrialState

        self.study.tell(number, value, TrialState[state])
        self.handles.pop(number, None)

    def _handle(self, number: int) -> "Trial":
        """Optuna's object for a trial at work, also for one of an earlier process."""
        from optuna.trial import Trial

        if number not in self.handles:
            self.handles[number] = Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)
        return self.handles[number]


class _Held:
    """Stands for the journal's own lock, whose file a killed process leaves behind; the sweep is locked as a whole."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...


def _cut_last_line(path: Path) -> None:
    """Remove a line that a kill cut short; Optuna could read no line after it."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n") and content:
        whole = content[: content.rfind(b"\n") + 1]
        write_atomically(path, lambda temporary: temporary.write_bytes(whole))
