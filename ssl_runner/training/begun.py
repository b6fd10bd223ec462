"""What a run's encoder begins from, if not from random weights, and what the result says of it."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ssl_runner.algorithms.algorithm import Algorithm
from ssl_runner.data.dataset import Dataset, Splits
from ssl_runner.evaluation.unseen import shares_images, sources
from ssl_runner.models.network import Encoder


@dataclass(frozen=True)
class Begun:
    """The weights that an encoder begins from.

    Attributes:
        facts: Plain data for the result: ``weights`` (where they were), ``fingerprint``, ``freeze``; as far as it is
            known also ``kind``, ``run`` (folder, name, config_hash, seed), ``input_shape``, ``encoder`` (settings that
            differ), and what they were trained on: ``dataset``, ``sources``, ``split_by``, ``data``.
        drawn: The encoder's ``state_dict()`` before they were loaded.
        lacking: Why they could not be read, if the run may go on from a checkpoint and not need them; else None.
    """

    facts: dict[str, Any]
    drawn: Mapping[str, Tensor]
    lacking: str | None = None

    def undone(self, algorithm: Algorithm) -> Algorithm:
        """A copy of an algorithm that was not trained yet, whose encoders have the weights that were drawn."""
        fresh = copy.deepcopy(algorithm)
        for part in fresh.modules():
            if isinstance(part, Encoder):  # a teacher has one too
                part.load_state_dict(dict(self.drawn))
        return fresh

    def known(self, splits: Splits) -> Splits:
        """The splits, whose training part says what the weights have seen before."""
        seen = tuple(sorted(sources(splits.train) | set(self.facts.get("sources") or ())))
        return splits if seen == (splits.train.source,) else replace(splits, train=replace(splits.train, seen=seen))

    def caution(self, splits: Splits) -> str | None:
        """A sentence on test images that the weights may have seen, or None."""
        if self._classes(splits) == "unseen":
            return None
        source, by = splits.train.source, self.facts.get("split_by")
        how = f", split by {by}" if by else ""
        return f"the encoder begins from weights of other images of {source}{how}: they may have seen its test images"

    def protocol(self, stated: dict[str, Any], own: bool, splits: Splits) -> dict[str, Any]:
        """An evaluator's protocol, in which ``classes`` takes into account what the weights have seen.

        Args:
            stated: By the evaluator, which knows only the run's own data and the weights' known sources.
            own: Whether it judges the run's own test split.
        """
        if stated.get("classes") != "unseen":
            return stated
        if self.facts.get("sources") is None:
            return stated | {"classes": "unknown"}
        return stated | ({"classes": self._classes(splits)} if own else {})

    def _classes(self, splits: Splits) -> str:
        """Whether the weights have seen the held-out classes of the run's own data."""
        trained = self.facts.get("sources")
        if trained is None or not shares_images(_of(splits.train.source), _of(*trained)):
            return "unseen"
        if self.facts.get("data") == splits.train.fingerprint:
            return "unseen"
        return "seen" if self.facts.get("split_by") == "images" else "unknown"


def _of(*names: str) -> Dataset:
    """A dataset of which only the sources count."""
    return Dataset("", None, None, (), None, "", seen=names or ("",))  # pyright: ignore[reportArgumentType]
