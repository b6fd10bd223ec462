"""The classifiers that few-shot evaluation was asked for, on the same episodes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.config.suggestions import did_you_mean
from ssl_runner.errors import InvalidValue
from ssl_runner.evaluation.classifiers.classifier import TaskClassifier
from ssl_runner.evaluation.classifiers.encoded import Encoded
from ssl_runner.evaluation.contender import Contender
from ssl_runner.evaluation.paired import difference, keyed, mean

OWN = "own"  # the algorithm's own way to classify


@dataclass(frozen=True)
class Chosen:
    """Which classifiers score the episodes, and what their figures are called.

    Attributes:
        names: At least one; OWN is `Algorithm.classify`.
        classifiers: By name, those that could be chosen.
        option: The evaluator's key below ``eval``, for messages.
    """

    names: Sequence[str]
    classifiers: Mapping[str, TaskClassifier]
    option: str

    @classmethod
    def of(
        cls, asked: str | Sequence[str] | None, classifiers: Mapping[str, TaskClassifier | None], option: str
    ) -> "Chosen":
        """What ``eval.OPTION.classifier`` asks for: a name, several, or none for the algorithm's own.

        Raises:
            InvalidValue: A name is unknown or repeated, or the list is empty.
        """
        names = [OWN] if asked is None else [asked] if isinstance(asked, str) else list(asked)
        there = {name: one for name, one in classifiers.items() if one is not None}
        key = f"eval.{option}.classifier"
        if not names:
            raise InvalidValue(f"{key}=[] is empty; give null for the algorithm's own, or names: {', '.join(there)}")
        if len(set(names)) < len(names):
            raise InvalidValue(f"{key}={names} repeats a name; give each only once")
        for name in names:
            if name != OWN and name not in there:
                hint = did_you_mean(name, [OWN, *there]) or f"; there are {', '.join([OWN, *there])}"
                raise InvalidValue(f"{key}: there is no classifier '{name}'{hint}")
            if name != OWN and not isinstance(there[name], TaskClassifier):
                made = type(there[name]).__name__
                raise InvalidValue(f"eval.{option}.classifiers.{name} is a {made}, expected a TaskClassifier")
        return cls(names, there, option)

    @property
    def default(self) -> bool:
        """Whether only the algorithm's own way is asked for."""
        return list(self.names) == [OWN]

    def way(self, name: str) -> str:
        """What is behind the setting in a key: nothing for OWN, ``centroid``, ``tim_transductive``."""
        if name == OWN:
            return ""
        return f"{name}_transductive" if self.classifiers[name].transductive else name

    def contenders(self, algorithm: Algorithm, encoded: Encoded) -> Iterator[tuple[str, Contender]]:
        """Each `way` with its contender, one after the other, so that not all their features are held at once."""
        for name in self.names:
            if name == OWN:
                made = Contender.of_algorithm(algorithm, encoded.dataset, encoded.tasks, encoded.device)
            else:
                made = self.classifiers[name].contender(f"eval.{self.option}.classifiers.{name}", encoded)
            yield self.way(name), made

    def scores(self, found: Mapping[str, Tensor]) -> dict[str, float]:
        """Means with intervals, and the paired differences of each classifier to the first, by the end of their key.

        Args:
            found: The accuracies (T,) by `way`, and by the further ways of the algorithm.
        """
        first, scores = self.way(self.names[0]), {}
        for way, accuracies in found.items():
            prefix = f"{way}/" if way else ""
            scores |= {f"{prefix}{score}": value for score, value in mean(accuracies).items()}
            if way in self._compared:
                scores |= keyed(f"{prefix}{self._minus}", difference(accuracies, found[first]))
        return scores

    def keys(self, algorithm: Algorithm | None) -> list[str]:
        """The keys of `scores`."""
        keys = []
        for name in self.names:
            further = algorithm.classifiers if name == OWN and algorithm is not None else ()
            for way in (self.way(name), *further):
                prefix = f"{way}/" if way else ""
                keys += [f"{prefix}top1", f"{prefix}ci95"]
                if way in self._compared:
                    keys += [f"{prefix}{self._minus}/difference", f"{prefix}{self._minus}/ci95"]
        return keys

    @property
    def _compared(self) -> list[str]:
        return [self.way(name) for name in self.names[1:]]

    @property
    def _minus(self) -> str:
        return f"minus_{self.way(self.names[0]) or OWN}"

    def described(self) -> dict[str, Any]:
        """For a protocol: a recipe by `way`; nothing if only the algorithm's own way is asked for."""
        if self.default:
            return {}
        recipes = {
            self.way(name) or OWN: "the algorithm's own" if name == OWN else self.classifiers[name].recipe()
            for name in self.names
        }
        return {"classifiers": recipes}

    def shortened(self) -> "Chosen":
        """The same with fewer steps, for a check."""
        shorter = {name: one.shortened() for name, one in self.classifiers.items()}
        return Chosen(self.names, shorter, self.option)
