"""The spaces of a search: choices, and numbers between two ends."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssl_runner.errors import InvalidValue

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Choices:
    """One of several values.

    Attributes:
        key: What it sets, as on the command line.
        texts: The values, as on the command line.
    """

    key: str
    texts: tuple[str, ...]

    @property
    def ends(self) -> list[str]:
        """The values that show whether the space can be used: all."""
        return list(self.texts)

    @property
    def points(self) -> list[Any] | None:
        """The values of a grid."""
        return list(self.texts)

    def text(self, value: Any) -> str:
        """A value as it is written on the command line."""
        return str(value)

    def distribution(self) -> "BaseDistribution":
        """The space in Optuna's terms."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.texts)


@dataclass(frozen=True)
class Numbers:
    """A number between two ends, or one of a row of numbers with equal distances.

    Attributes:
        key: What it sets, as on the command line.
        low: The least.
        high: The greatest.
        row: The numbers of a row, ascending; None for every number between the ends.
        log: Whether the logarithm is drawn.
        whole: Whether only integers are drawn.
    """

    key: str
    low: float
    high: float
    row: tuple[float, ...] | None = None
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise InvalidValue(f"{self.key}: there is nothing between {self.low} and {self.high}; give the lower first")
        if self.log and self.low <= 0:
            raise InvalidValue(f"{self.key}: tag log needs numbers above 0, got {self.low}; raise the low end")
        if self.log and self.row is not None and not (self.whole and self.step in (None, 1)):
            raise InvalidValue(
                f"{self.key}: tag log and a row of numbers do not go together; write tag(log,interval({self.low},"
                f"{self.high})), with tag int for integers"
            )

    @property
    def step(self) -> float | None:
        """The distance in a row."""
        return self.row[1] - self.row[0] if self.row is not None and len(self.row) > 1 else None

    @property
    def ends(self) -> list[str]:
        """The values that show whether the space can be used."""
        return [self.text(value) for value in dict.fromkeys((self.low, self.high))]

    @property
    def points(self) -> list[Any] | None:
        """The values of a grid; None if there is no end of them."""
        return None if self.row is None else list(self.row)

    def text(self, value: Any) -> str:
        """A value as it is written on the command line."""
        if self.row is not None:  # sums of steps differ from it in the last digits
            value = min(self.row, key=lambda one: abs(one - value))
        return str(int(value)) if self.whole else repr(float(value))

    def distribution(self) -> "BaseDistribution":
        """The space in Optuna's terms."""
        from optuna.distributions import FloatDistribution, IntDistribution

        step = None if self.log else self.step
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=1 if step is None else int(step))
        return FloatDistribution(self.low, self.high, log=self.log, step=step)


Space = Choices | Numbers


def refuse(spaces: Sequence[Space], sampler: str) -> None:
    """Raises InvalidValue for spaces that a sampler cannot take."""
    if sampler == "grid":
        for space in spaces:
            if space.points is None:
                raise InvalidValue(
                    f"{space.key}: a grid has no intervals; give values, as {space.key}={','.join(space.ends)}, or "
                    "range(...), or choose hydra.sweeper.sampler=tpe"
                )
    if sampler == "cmaes" and sum(isinstance(space, Numbers) and space.low < space.high for space in spaces) < 2:
        raise InvalidValue(
            "hydra.sweeper.sampler: cmaes needs two spaces of numbers, interval(...) or range(...), since it takes "
            "choices at random; choose hydra.sweeper.sampler=tpe"
        )


def grid(spaces: Sequence[Space], number: int) -> Mapping[str, Any]:
    """A combination of a grid; the last space changes first."""
    points = [space.points or [] for space in spaces]
    found = next(itertools.islice(itertools.product(*points), number, None))
    return {space.key: value for space, value in zip(spaces, found, strict=True)}


def combinations(spaces: Sequence[Space]) -> int:
    """How many a grid has."""
    count = 1
    for space in spaces:
        count *= len(space.points or [])
    return count
