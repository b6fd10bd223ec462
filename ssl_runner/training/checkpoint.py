"""Checkpoints, from which a run resumes exactly: written completely or not at all, and read without running code."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils._pytree import tree_map

from ssl_runner.config.hashing import END, config_difference, config_hash
from ssl_runner.config.paths import with_absolute_paths
from ssl_runner.config.renamed import with_current_names
from ssl_runner.errors import InvalidValue, ResumeError
from ssl_runner.runtime import launch_environment, versions
from ssl_runner.runtime.atomic_write import write_atomically
from ssl_runner.runtime.launch_environment import how_to_go_on

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
DAMAGED = "damaged.pt"


@dataclass(frozen=True)
class Identity:
    """Everything that must be equal for a resumed run to equal an uninterrupted one."""

    config_hash: str
    fingerprint: str
    threads: int
    processes: int = 1
    hash_without_end: str | None = None

    @classmethod
    def of(cls, config: dict[str, Any], fingerprint: str, threads: int) -> "Identity":
        """The identity of a run with this config, data and number of threads."""
        hashes = config_hash(config), config_hash(config, but=END)
        return cls(hashes[0], fingerprint, threads, launch_environment.size(), hashes[1])


def save(
    folder: Path,
    step: int,
    algorithm: dict[str, Any],
    optimizer: dict[str, Any],
    identity: Identity,
    best: dict[str, float | int] | None,
    seconds: float,
    open_ended: bool,
    ends: Sequence[int],
) -> None:
    """Write folder/last.pt, and keep the one before as previous.pt.

    Args:
        algorithm: Its ``state_dict()``, with whole tensors.
        optimizer: The same.
        best: Value and step of the best validation score so far.
        seconds: Training time so far.
        open_ended: Whether nothing so far depended on where the run ends.
        ends: Steps at which the end of the run was changed.
    """
    folder.mkdir(exist_ok=True)  # without parents: a run folder that was deleted is not created again
    for abandoned in folder.glob(f".{LAST}.*"):  # left by a process that was killed while writing
        abandoned.unlink()
    state = _state(step, algorithm, optimizer, identity, best, seconds)
    state |= {"open_ended": open_ended, "ends": list(ends)}

    def write(temporary: Path) -> None:
        torch.save(state, temporary)
        if (folder / LAST).exists():
            (folder / LAST).replace(folder / PREVIOUS)

    write_atomically(folder / LAST, write)


def rehearse(algorithm: nn.Module, optimizer: torch.optim.Optimizer, identity: Identity) -> None:
    """Serialize a checkpoint of step 0 in memory, read it as a resumed run would, and discard it.

    Weights are on the meta device, where a tensor has only a type and a shape, so this takes milliseconds for any size.
    The state that an optimizer creates in its first step is not included, and the disk is not tested.

    Raises:
        ValueError: The checkpoint cannot be written or read.
    """
    states = algorithm.state_dict(), optimizer.state_dict()
    state, stream = _state(0, *states, identity, None, 0.0), io.BytesIO()
    light = tree_map(lambda value: value.to("meta") if isinstance(value, torch.Tensor) else value, state)
    try:
        torch.save(light, stream)
        stream.seek(0)
        torch.load(stream, weights_only=True)
    except Exception as error:  # from pickle, or from the reader, which runs no code and so accepts few classes
        reason = str(error).strip().splitlines()[0]
        raise InvalidValue(
            f"a checkpoint of {type(algorithm).__name__} with {type(optimizer).__name__} could not be written and read "
            f"again ({reason}); their state_dict() may hold only tensors, numbers, text and containers of these"
        ) from error


def _state(
    step: int,
    algorithm: dict[str, Any],
    optimizer: dict[str, Any],
    identity: Identity,
    best: dict[str, float | int] | None,
    seconds: float,
) -> dict[str, Any]:
    return {
        "step": step,
        "algorithm": algorithm,
        "optimizer": optimizer,
        "identity": vars(identity),
        "versions": versions.versions(),
        "best": best,
        "seconds": seconds,
    }


def load(folder: Path, identity: Identity) -> tuple[dict[str, Any], list[str]] | None:
    """The newest readable checkpoint and warnings, or None if there is no checkpoint.

    A damaged last.pt is renamed to damaged.pt, so that the next `save` does not replace an intact previous.pt with it.

    Raises:
        ResumeError: The checkpoint belongs to another config or other data, or every checkpoint is damaged.
    """
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    warnings = []
    for path in found:
        try:
            state = _read(path)
            stored = Identity(**state["identity"])
        except Exception as error:  # damage causes many kinds of errors; the older file may be intact
            warnings.append(f"{path} is damaged ({type(error).__name__})")
            continue
        differences = _differences(path, stored, identity, state)
        state.setdefault("open_ended", False)  # earlier versions did not record it
        state["ends"] = [
            *state.get("ends", ()),
            *([state["step"]] if stored.config_hash != identity.config_hash else ()),
        ]
        if warnings:
            warnings[0] += f"; resuming from the one before, step {state['step']}"
            (folder / LAST).replace(folder / DAMAGED)
        return state, warnings + differences
    if found:
        raise ResumeError("; ".join(warnings) + ". No intact checkpoint is left: start a new run.")
    return None


def selected_weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The algorithm's weights and buffers, on the CPU.

    Args:
        folder: The folder of the checkpoints.
        name: Name of the selected checkpoint, as in result.json: last.pt or best.pt.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or the name is neither of the two.
    """
    path = folder / name
    if name not in (LAST, BEST):
        raise InvalidValue(
            f"the result of {folder.parent} names the selected checkpoint {name!r}, expected {LAST} or {BEST}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; restore it: it holds the trained weights of {folder.parent}")
    try:
        state = _read(path)
        return state if name == BEST else state["algorithm"]
    except Exception as error:  # damage causes many kinds of errors
        raise InvalidValue(f"{path} is damaged ({type(error).__name__}); restore an intact copy") from error


def _read(path: Path) -> dict[str, Any]:
    _verify(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _verify(path: Path) -> None:
    """Check the checksums that torch writes: its reader ignores them and would load flipped bits as weights."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise OSError(f"the checksum of {broken} does not match")


def _differences(path: Path, stored: Identity, identity: Identity, state: dict[str, Any]) -> list[str]:
    """Refuse differences that make it another run; return warnings for those that change the last bits."""
    same_but_end = stored.hash_without_end is not None and stored.hash_without_end == identity.hash_without_end
    if stored.config_hash != identity.config_hash and same_but_end and not state.get("open_ended", False):
        raise ResumeError(
            f"the end of {path.parent.parent} cannot be changed: its learning rate, or its method, depends on the "
            "fraction of the run that is done, so a longer run differs from its first step on; start a new run with "
            "the trainer.max_steps that you want (a run with scheduler=constant can be extended later)"
        )
    if stored.config_hash != identity.config_hash and not same_but_end:
        raise ResumeError(
            f"{path} was written with config {stored.config_hash}, this run has {identity.config_hash}; "
            "resume with the run's own config, or start a new run"
        )
    if stored.fingerprint != identity.fingerprint:
        raise ResumeError(
            f"{path} was trained on data {stored.fingerprint}, the dataset is now {identity.fingerprint}; "
            "restore the data, or start a new run"
        )
    if stored.processes != identity.processes:
        raise ResumeError(
            f"{path} was written by {stored.processes} processes, this run has {identity.processes}, whose sums are "
            f"rounded differently; resume with {stored.processes} (torchrun --nproc-per-node={stored.processes} -m "
            "ssl_runner.train resume=RUN; for one, ssl-train), or start a new run"
        )
    before, after = (
        state["versions"] | {"threads": stored.threads},
        versions.versions() | {"threads": identity.threads},
    )
    return [
        f"{name} was {before.get(name)}, now {now}: the run continues, but may differ in the last bits"
        for name, now in after.items()
        if before.get(name) != now
    ]


def resume_point(config: dict[str, Any], folder: Path, identity: Identity) -> tuple[dict[str, Any] | None, list[str]]:
    """The checkpoint to resume from, if the config asks for one, and warnings.

    Raises:
        ResumeError: ``resume`` names a run that has no checkpoint, has another config or other data, or whose end
            cannot be changed.
    """
    if config["resume"] is None:
        if (folder / "config.yaml").exists():
            raise ResumeError(f"{folder} already holds a run; continue it (resume=auto), or give another hydra.run.dir")
        return None, []
    if (folder / "config.yaml").exists():
        before, _ = with_current_names(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        changes = config_difference(with_absolute_paths(before), config, but=END)
        if changes:
            raise ResumeError(
                "\n".join([f"{folder} is a run with another config:", *changes])
                + f"\n{how_to_go_on(folder)}, or start a new run in another folder"
            )
    found = load(folder / "checkpoints", identity)
    if found is not None:
        return found
    if config["resume"] == "auto":
        return None, []
    raise ResumeError(f"{folder} has no checkpoint to resume from; start a new run without resume=")
