"""Evaluations of finished encoders: where they are kept, and in what form (docs/eval.md)."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssl_runner.runtime.atomic_write import write_atomically

FOLDER, FORMAT, ANSWERS = "evaluations", 1, ".answers.safetensors"


@dataclass(frozen=True)
class Evaluation:
    """One encoder evaluated in one way.

    Attributes:
        path: Its file, ``RUN/evaluations/HASH.json``.
        content: What the file holds; keys as in result.json where they mean the same.
        again: Whether it was read from the file instead of computed.
    """

    path: Path
    content: dict[str, Any]
    again: bool = False

    @property
    def metrics(self) -> dict[str, float]:
        """Fractions by key: ``knn/top1``."""
        return self.content["metrics"]

    @property
    def protocols(self) -> dict[str, Any]:
        """How each evaluator measured."""
        return self.content["protocols"]

    @cached_property
    def answers(self) -> dict[str, np.ndarray]:
        """By score, which test images were answered rightly, bool (M,), or the accuracies of episodes, float64 (T,)."""
        from safetensors.numpy import load_file

        return load_file(answers_path(self.path))


def folder_beside(run: Path) -> Path:
    """Where the evaluations of a run are."""
    return run / FOLDER


def folder_of(name: str, digest: str | None) -> Path:
    """Where the evaluations of an encoder without a run folder are: ``outputs/evaluations/NAME_DIGEST``."""
    safe = re.sub(r"[^\w.-]+", "_", name).strip("._") or "encoder"
    root = Path(os.environ.get("SSL_RUNNER_OUTPUTS", "outputs")).absolute()
    return root / FOLDER / (safe if digest is None else f"{safe}_{digest[:8]}")


def answers_path(path: Path) -> Path:
    """The file of the single answers, beside that of the evaluation."""
    return path.with_name(f"{path.stem}{ANSWERS}")


def protocol_hash(facts: Mapping[str, Any]) -> str:
    """Sixteen hex digits that two evaluations share if they asked the same."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def write(path: Path, content: dict[str, Any], answers: Mapping[str, np.ndarray]) -> Evaluation:
    """Write an evaluation; its own file last, so that it is there completely or not at all."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: np.ascontiguousarray(values) for key, values in answers.items()}
    write_atomically(answers_path(path), lambda temporary: save_file(tensors, temporary))
    text = json.dumps({"format": FORMAT, **content}, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return Evaluation(path, json.loads(text))


def read(path: Path) -> Evaluation | None:
    """An evaluation, or None if there is none, or it is damaged or of another version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(content, dict) and content.get("format") == FORMAT and isinstance(content.get("metrics"), dict)
    return Evaluation(path, content, again=True) if whole and answers_path(path).is_file() else None
