"""What several encoders scored on the same questions: on one dataset, or on each of a suite."""

from dataclasses import asdict, dataclass
from typing import Any

from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.pairs import Difference
from ssl_runner.runs.evaluations import Evaluation


@dataclass(frozen=True)
class Row:
    """One dataset.

    Attributes:
        name: Of the suite's row; empty without a suite.
        evaluations: Of each encoder.
        differences: Between each two encoders, in every score that both have.
    """

    name: str
    evaluations: list[Evaluation]
    differences: list[Difference]

    @property
    def keys(self) -> list[str]:
        """The scores of any encoder, without ``/top1``."""
        found = (key for one in self.evaluations for key in one.metrics if key.endswith("/top1"))
        return list(dict.fromkeys(key.removesuffix("/top1") for key in found))

    def best(self, key: str) -> int | None:
        """The encoder with the best score; None if there is only one."""
        scores = {number: one.metrics.get(f"{key}/top1") for number, one in enumerate(self.evaluations)}
        known = {number: score for number, score in scores.items() if score is not None}
        return max(known, key=known.__getitem__) if len(known) > 1 else None

    def tied(self, key: str) -> set[int]:
        """The encoders that cannot be told apart from the best."""
        best = self.best(key)
        pairs = [one for one in self.differences if one.key == key and best in (one.first, one.second)]
        return {one.second if one.first == best else one.first for one in pairs if not one.told_apart}


@dataclass(frozen=True)
class Evaluations:
    """The result of ``ssl-eval``.

    Attributes:
        encoders: As they were given.
        rows: One for each dataset.
        left_out: For each row of a suite that was left out, why.
    """

    encoders: list[str]
    rows: list[Row]
    left_out: dict[str, str]

    def __len__(self) -> int:
        return sum(len(row.evaluations) for row in self.rows)

    @property
    def only(self) -> Evaluation:
        """The single evaluation.

        Raises:
            ValueError: There are several.
        """
        if len(self) != 1:
            raise InvalidValue(f"there are {len(self)} evaluations; choose one: .rows[0].evaluations[0]")
        return self.rows[0].evaluations[0]

    @property
    def metrics(self) -> dict[str, float]:
        """The scores of the single evaluation, as fractions: ``metrics["knn/top1"]``."""
        return self.only.metrics

    @property
    def differences(self) -> list[Difference]:
        """Between each two encoders, of all rows."""
        return [one for row in self.rows for one in row.differences]

    def as_json(self) -> dict[str, Any]:
        """Plain data: ``encoders``, ``rows`` with ``evaluations`` and ``differences``, ``left_out``."""
        return {
            "encoders": self.encoders,
            "rows": [
                {
                    "name": row.name,
                    "evaluations": [
                        {"path": str(one.path), "read": one.again, **one.content} for one in row.evaluations
                    ],
                    "differences": [
                        asdict(one)
                        | {"first": self.encoders[one.first], "second": self.encoders[one.second]}
                        | {"told_apart": one.told_apart}
                        for one in row.differences
                    ],
                }
                for row in self.rows
            ],
            "left_out": self.left_out,
        }
