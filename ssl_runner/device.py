"""Where tensors live."""

import torch


def choose_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: It is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        usable = ", ".join(kind for kind, present in there.items() if present)
        raise ValueError(f"device={name!r}, but usable here is: {usable}; set trainer.device=auto")
    return torch.device(name)
