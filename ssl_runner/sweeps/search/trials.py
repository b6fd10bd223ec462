"""The queue of a search: draws trials, judges them by validation figures, and gives up bad ones."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ssl_runner.errors import InvalidValue
from ssl_runner.sweeps.manifest import Job
from ssl_runner.sweeps.search.figures import Figures
from ssl_runner.sweeps.search.study import Study
from ssl_runner.sweeps.state import progress
from ssl_runner.sweeps.sweep import Sweep

PRUNED = "pruned"


class Trials:
    """The trials of a search, as `drive` takes them. A trial is a job of the sweep; equal trials are one job.

    Args:
        sweep: Its jobs, to which trials are added.
        study: Its trials.
        total: How many trials there are to be.
        make: Makes a job of a trial's index and its values, or raises InvalidValue.
        tell: Prints one line about a subject.
    """

    def __init__(
        self,
        sweep: Sweep,
        study: Study,
        total: int,
        make: Callable[[int, dict[str, Any]], Job],
        tell: Callable[[str, str], None],
    ) -> None:
        self.sweep, self.study, self.total, self.make, self.tell = sweep, study, total, make, tell
        self.pending: deque[int] = deque()
        self.working: set[int] = set()
        self.figures: dict[int, Figures] = {}
        self.trials: dict[int, list[int]] = {}  # those at work, by job
        self.jobs = {job.config_hash: number for number, job in enumerate(sweep.jobs)}
        self.asked = 0
        self._take_up()

    def _take_up(self) -> None:
        """Go on from what an earlier command left."""
        numbers = {job.name: number for number, job in enumerate(self.sweep.jobs)}
        for one in self.study.trials:
            number = numbers.get(self.study.job(one) or "")
            if one.state.name == "RUNNING" and number is None:
                self.study.abandon(one.number)
            elif one.state.name == "RUNNING" and number is not None:
                self.trials.setdefault(number, []).append(one.number)
            elif number is not None and one.state.name in ("PRUNED", "FAIL"):
                self._mark(number, PRUNED if one.state.name == "PRUNED" else "failed", self.study.reason(one))
        for number in sorted(self.trials):
            if not self._settle(number):
                self.pending.append(number)
        self._count()

    def _count(self) -> None:
        self.asked = len(self.study.trials)
        self.sweep.to_come = max(0, self.total - self.asked)

    def next(self) -> int | None:
        """The job of the next trial that is not known already."""
        while not self.is_empty():
            number = self.pending.popleft() if self.pending else self._begin()
            if number is not None:
                self.working.add(number)
                return number
        return None

    def is_empty(self) -> bool:
        """Whether all trials have begun."""
        return not self.pending and self.asked >= self.total

    def _begin(self) -> int | None:
        """Draw a trial; returns its job, or None if that is not to be run."""
        asked = self.study.ask()
        try:
            job = self.make(asked.index, asked.values)
        except InvalidValue as error:
            self.study.fail(asked.number, " ".join(str(error).split()))
            self._count()
            self.tell("failed", f"trial {asked.index}: {error}")
            return None
        number = self.jobs.get(job.config_hash)
        # first the study, then the manifest: a trial without its job is drawn once more
        self.study.attach(asked.number, job.name if number is None else self.sweep.jobs[number].name)
        if number is None:
            number = self.jobs[job.config_hash] = self.sweep.add(job)
        self._count()
        self.trials.setdefault(number, []).append(asked.number)
        return None if number in self.working or self._settle(number) else number

    def ended(self, number: int) -> None:
        """Record what became of a job."""
        self.working.discard(number)
        if number in self.trials:
            self._settle(number)
        else:
            self._mark(number, PRUNED)

    def again(self, number: int) -> None:
        """A job that another command had started was stopped with it."""
        self.working.discard(number)
        if number in self.trials:
            self.pending.append(number)
        else:
            self._mark(number, PRUNED)

    def gives_up(self, number: int) -> bool:
        """Report new figures; returns whether they are bad, once."""
        if number not in self.trials:
            return False
        figures, bad = self._figures(number), False
        for step, value in figures.fresh():
            for trial in self.trials[number]:
                bad = self.study.report(trial, step, value) or bad
        if not bad or self._is_over(number):
            return False
        for trial in self.trials.pop(number):
            self.study.prune(trial)
        step = max(figures.known)
        self.tell(
            PRUNED,
            f"{self.sweep.jobs[number].name}: {self.study.search.metric} {figures.known[step][0]:.4f} at step {step} "
            "is worse than the median",
        )
        return True

    def _is_over(self, number: int) -> bool:
        """Whether a job has done its last step, so that nothing is saved by giving it up."""
        steps = progress(self.sweep.folder_of(number)).steps
        return steps is not None and max(self._figures(number).known) >= steps

    def _figures(self, number: int) -> Figures:
        if number not in self.figures:
            job, folder = self.sweep.jobs[number], self.sweep.states[number].folder
            metric = self.study.search.metric
            self.figures[number] = Figures(folder, metric, job.config["trainer"].get("select") or metric)
        return self.figures[number]

    def _settle(self, number: int) -> bool:
        """Record the end of the trials of a job; returns False if it has not ended, or was interrupted."""
        state = self.sweep.states[number]
        if state.status == PRUNED:
            for trial in self.trials.pop(number):
                self.study.prune(trial)
            return True
        if state.status == "failed":
            for trial in self.trials.pop(number):
                self.study.fail(trial, state.reason)
            return True
        if not state.finished:
            return False
        figures = self._figures(number)
        list(figures.fresh())
        final = figures.final
        for trial in self.trials.pop(number):
            if final is None:
                self.study.fail(trial, f"no {figures.metric} of validation; lower trainer.evaluate_every")
                continue
            for step, (value, _) in figures.known.items():
                self.study.report(trial, step, value)
            self.study.complete(trial, final)
        if final is not None:
            self._report(number, final)
        return True

    def _report(self, number: int, final: float) -> None:
        best = self.study.best
        assert best is not None and best.value is not None
        beside = f"the best so far is {best.value:.4f}" if best.value != final else "the best so far"
        self.tell(self.study.search.metric, f"{final:.4f} of {self.sweep.jobs[number].name}, {beside}")

    def _mark(self, number: int, status: str, reason: str = "") -> None:
        self.sweep.states[number] = replace(self.sweep.states[number], status=status, reason=reason)
