"""What a run needs to go on exactly: written whole or not at all, read without running code."""

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
    """What must be the same for a resumed run to be the unbroken one."""

    config_hash: str
    fingerprint: str
    threads: int
    processes: int = 1
    hash_without_end: str | None = None

    @classmethod
    def of(cls, config: dict[str, Any], fingerprint: str, threads: int) -> "Identity":
        """Of a run with this config on these data, by so many threads."""
        hashes = config_hash(config), config_hash(config, but=END)
        return cls(hashes[0], fingerprint, threads, launch_environment.size(), hashes[1])


def save(
    folder: Path,
    step: int,
    algorithm: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Identity,
    best: dict[str, float | int] | None,
    seconds: float,
    open_ended: bool,
    ends: Sequence[int],
) -> None:
    """Write folder/last.pt, and keep the one before as previous.pt.

    Args:
        best: Value and step of the best on validation so far.
        seconds: Of training, up to here.
        open_ended: Whether nothing so far hung on where the run ends.
        ends: Steps after which the run was given another end.
    """
    folder.mkdir(exist_ok=True)  # in the run folder, which nobody makes again when it is gone
    for abandoned in folder.glob(f".{LAST}.*"):  # by a process that was killed while it wrote
        abandoned.unlink()
    state = _state(step, algorithm, optimizer, identity, best, seconds)
    state |= {"open_ended": open_ended, "ends": list(ends)}

    def write(temporary: Path) -> None:
        torch.save(state, temporary)
        if (folder / LAST).exists():
            (folder / LAST).replace(folder / PREVIOUS)

    write_atomically(folder / LAST, write)


def rehearse(algorithm: nn.Module, optimizer: torch.optim.Optimizer, identity: Identity) -> None:
    """Make the bytes of a checkpoint of step 0, read them as a resumed run would, and throw them away.

    Weights are on the meta device, where a tensor is its type and shape, so this takes milliseconds for any size.
    What an optimizer keeps from its first step on is not there yet, and the disk is not asked.

    Raises:
        ValueError: No checkpoint could be written, or none could be read.
    """
    state, stream = _state(0, algorithm, optimizer, identity, None, 0.0), io.BytesIO()
    light = tree_map(lambda value: value.to("meta") if isinstance(value, torch.Tensor) else value, state)
    try:
        torch.save(light, stream)
        stream.seek(0)
        torch.load(stream, weights_only=True)
    except Exception as error:  # pickle's, or the reader's, who runs no code and so knows few classes
        reason = str(error).strip().splitlines()[0]
        raise InvalidValue(
            f"a checkpoint of {type(algorithm).__name__} with {type(optimizer).__name__} could not be written and read "
            f"again ({reason}); let their state_dict() hold tensors, numbers, text and containers of these alone"
        ) from error


def _state(
    step: int,
    algorithm: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Identity,
    best: dict[str, float | int] | None,
    seconds: float,
) -> dict[str, Any]:
    return {
        "step": step,
        "algorithm": algorithm.state_dict(),
        "optimizer": optimizer.state_dict(),
        "identity": vars(identity),
        "versions": versions.versions(),
        "best": best,
        "seconds": seconds,
    }


def load(folder: Path, identity: Identity) -> tuple[dict[str, Any], list[str]] | None:
    """The newest readable checkpoint and warnings, or None where there is none.

    A damaged last.pt is set aside as damaged.pt, lest the next `save` puts it in the place of a whole previous.pt.

    Raises:
        ResumeError: It belongs to another config or other data, or every checkpoint is damaged.
    """
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    warnings = []
    for path in found:
        try:
            state = _read(path)
            stored = Identity(**state["identity"])
        except Exception as error:  # damage shows as many kinds of error; the next older file may be whole
            warnings.append(f"{path} is damaged ({type(error).__name__})")
            continue
        differences = _differences(path, stored, identity, state)
        state.setdefault("open_ended", False)  # earlier versions did not look
        state["ends"] = [
            *state.get("ends", ()),
            *([state["step"]] if stored.config_hash != identity.config_hash else ()),
        ]
        if warnings:
            warnings[0] += f"; going on from the one before, step {state['step']}"
            (folder / LAST).replace(folder / DAMAGED)
        return state, warnings + differences
    if found:
        raise ResumeError("; ".join(warnings) + ". No whole checkpoint is left: start a new run.")
    return None


def selected_weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The algorithm's weights and buffers, on the CPU.

    Args:
        folder: Of the checkpoints.
        name: Of the selected checkpoint, as result.json says: last.pt or best.pt.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is damaged, or none of the two.
    """
    path = folder / name
    if name not in (LAST, BEST):
        raise InvalidValue(
            f"the selected checkpoint of {folder.parent} is said to be {name!r}, expected {LAST} or {BEST}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; bring it back: it holds what {folder.parent} has learned")
    try:
        state = _read(path)
        return state if name == BEST else state["algorithm"]
    except Exception as error:  # damage shows as many kinds of error
        raise InvalidValue(f"{path} is damaged ({type(error).__name__}); bring back a whole one") from error


def _read(path: Path) -> dict[str, Any]:
    _verify(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _verify(path: Path) -> None:
    """Compare the checksums that torch's writer leaves: its reader does not, and takes flipped bits for weights."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise OSError(f"the checksum of {broken} is another")


def _differences(path: Path, stored: Identity, identity: Identity, state: dict[str, Any]) -> list[str]:
    """Refuse what makes another run, warn of what changes the last bits."""
    same_but_end = stored.hash_without_end is not None and stored.hash_without_end == identity.hash_without_end
    if stored.config_hash != identity.config_hash and same_but_end and not state.get("open_ended", False):
        raise ResumeError(
            f"{path.parent.parent} cannot be given another end: its learning rate, or its method, follows the share of "
            "the run that is done, so that a longer run is another one from its first step; start a new run with the "
            "trainer.max_steps that you want (one with scheduler=constant can be made longer later)"
        )
    if stored.config_hash != identity.config_hash and not same_but_end:
        raise ResumeError(
            f"{path} was written by config {stored.config_hash}, this run is {identity.config_hash}; "
            "resume with the run's own config, or start a new run"
        )
    if stored.fingerprint != identity.fingerprint:
        raise ResumeError(
            f"{path} was trained on data {stored.fingerprint}, the dataset now is {identity.fingerprint}; "
            "restore the data, or start a new run"
        )
    if stored.processes != identity.processes:
        raise ResumeError(
            f"{path} was written by {stored.processes} processes, this run has {identity.processes}, whose sums are "
            f"rounded otherwise; go on with {stored.processes} (torchrun --nproc-per-node={stored.processes} -m "
            "ssl_runner.train resume=RUN; for one, ssl-train), or start a new run"
        )
    before, after = (
        state["versions"] | {"threads": stored.threads},
        versions.versions() | {"threads": identity.threads},
    )
    return [
        f"{name} was {before.get(name)}, now {now}: the run goes on, but perhaps not bitwise as if unbroken"
        for name, now in after.items()
        if before.get(name) != now
    ]


def resume_point(config: dict[str, Any], folder: Path, identity: Identity) -> tuple[dict[str, Any] | None, list[str]]:
    """The checkpoint to go on from, if the config asks for one, and warnings.

    Raises:
        ResumeError: ``resume`` names a run without a checkpoint, or of another config or data, or one that cannot be
            given another end.
    """
    if config["resume"] is None:
        if (folder / "config.yaml").exists():
            raise ResumeError(
                f"{folder} holds a run already; go on with it (resume=auto), or give another hydra.run.dir"
            )
        return None, []
    if (folder / "config.yaml").exists():
        before, _ = with_current_names(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
        changes = config_difference(with_absolute_paths(before), config, but=END)
        if changes:
            raise ResumeError(
                "\n".join([f"{folder} is a run of another config:", *changes])
                + f"\n{how_to_go_on(folder)}, or start a new run in another folder"
            )
    found = load(folder / "checkpoints", identity)
    if found is not None:
        return found
    if config["resume"] == "auto":
        return None, []
    raise ResumeError(f"{folder} has no checkpoint to go on from; start a new run without resume=")
