"""The settings of a search: what is to be found, and how trials are drawn and given up."""

import importlib.util
from typing import Literal

from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import InvalidValue

SAMPLERS, DIRECTIONS = ("tpe", "cmaes", "random", "grid"), ("maximize", "minimize")
USUAL_TRIALS = 20


class Search:
    """The settings of a search, which `hydra/sweeper=search` gives.

    Args:
        metric: A figure of validation, such as ``knn/top1``.
        direction: Whether a good trial has a great or a small figure.
        trials: How many, with those of earlier commands; null for 20, and in a grid for every combination.
        sampler: ``tpe`` learns from all trials, ``cmaes`` from numbers only; ``random`` and ``grid`` do not.
        startup_trials: Drawn at random before ``tpe`` or ``cmaes`` chooses.
        seed: Of the draws.
        prune: Whether a trial is stopped whose best figure is worse than the median of the others at its step.
        prune_after_trials: Finished trials before any is stopped.
        prune_after_steps: Steps of a trial before it can be stopped.
        params: Further spaces, by key.
    """

    def __init__(
        self,
        metric: str | None,
        direction: Literal["maximize", "minimize"],
        trials: int | None,
        sampler: Literal["tpe", "cmaes", "random", "grid"],
        startup_trials: int,
        seed: int,
        prune: bool,
        prune_after_trials: int,
        prune_after_steps: int,
        params: dict[str, str] | None,
    ) -> None:
        for name, value, options in (("sampler", sampler, SAMPLERS), ("direction", direction, DIRECTIONS)):
            if value not in options:
                hint = did_you_mean(str(value), options) or f"; expected {', '.join(options[:-1])} or {options[-1]}"
                raise InvalidValue(f"hydra.sweeper.{name}: got {value!r}{hint}")
        for name, value, least in (
            ("trials", trials, 1),
            ("startup_trials", startup_trials, 1),
            ("seed", seed, 0),
            ("prune_after_trials", prune_after_trials, 1),
            ("prune_after_steps", prune_after_steps, 0),
        ):
            if value is not None and value < least:
                raise InvalidValue(f"hydra.sweeper.{name}: got {value}; it must be at least {least}")
        if not metric:
            raise InvalidValue(
                "hydra.sweeper.metric: a search needs a figure of validation to judge trials by; give "
                "hydra.sweeper.metric=knn/top1"
            )
        self.direction: Literal["maximize", "minimize"] = direction
        self.metric = _refuse_test(metric.removeprefix("eval/validation/"))
        self.trials, self.sampler, self.startup_trials = trials, sampler, startup_trials
        self.seed, self.prune = seed, prune
        self.prune_after_trials, self.prune_after_steps = prune_after_trials, prune_after_steps
        if importlib.util.find_spec("optuna") is None or (
            sampler == "cmaes" and importlib.util.find_spec("cmaes") is None
        ):
            raise InvalidValue("hydra/sweeper=search needs Optuna; install it with: pip install 'ssl-runner[search]'")

    @property
    def identity(self) -> dict[str, object]:
        """All but the number of trials, which may grow."""
        return {key: value for key, value in vars(self).items() if key != "trials"}


def _refuse_test(metric: str) -> str:
    """The metric, unless its name is that of a test figure: TensorBoard shows them as ``eval/knn/top1``."""
    head, _, name = metric.partition("/")
    if head in ("test", "eval"):
        raise InvalidValue(
            f"hydra.sweeper.metric: {metric} is a figure of test images; a search that chooses by them makes the "
            f"final figure worthless, since it is no longer measured on unseen images; give "
            f"hydra.sweeper.metric={name.removeprefix('test/')}, which is measured on validation images"
        )
    return metric
