"""Weights from which an encoder begins: read from a file of any origin, and loaded only if every name and shape fits.

Files are read without running code: safetensors, or torch's with ``weights_only``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ssl_runner.errors import InvalidValue
from ssl_runner.models.foreign import quiet_hub
from ssl_runner.models.network import Encoder
from ssl_runner.models.timm_encoder import Timm

STATISTICS = ("mean", "std")  # of pixels, buffers of an `Encoder`
_BACKBONE = "backbone."
_PARTS = ("network.encoder.", "teacher.encoder.")  # of an algorithm: the student's, the teacher's
_SHOWN = 4  # names of each kind in a message


@dataclass(frozen=True)
class InitialWeights:
    """The weights of an encoder.

    Attributes:
        state: Named as in the ``state_dict()`` of an `Encoder`, with or without its pixel statistics.
        node: The config node of the backbone they belong to; None if the file does not say.
        facts: What else the file says, as plain data: ``config_hash``, ``dataset``, ``sources``, ``input_shape``.
    """

    state: dict[str, Tensor]
    node: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A hash of names and values as they are loaded, in sixteen hex digits, whatever file they are from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state.items()):
            values = (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.flatten().view(torch.uint8).numpy().data if values.numel() else b"")
        return digest.hexdigest()[:16]


def read_weights(path: Path, product: str | None = None) -> InitialWeights:
    """The weights in a file: an encoder.safetensors or a checkpoint of ours, or anyone's ``state_dict()``.

    Args:
        path: A .safetensors file, or one of ``torch.save``.
        product: For a checkpoint, whose encoder is wanted: ``student`` or ``teacher``. None if that is not known.

    Raises:
        ValueError: The file is damaged, holds something else than tensors, or two encoders.
    """
    metadata = dict[str, str]()
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        found = {name: json.loads(metadata[name]) for name in ("encoder", "sources", "input_shape") if name in metadata}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InvalidValue(f"{path} is damaged ({error}); restore it from a copy") from None
    except Exception as error:  # pickle and zip raise all kinds of errors for what is no file of weights
        reason = " ".join(str(error).split())[:200]
        raise InvalidValue(f"{path} cannot be read as weights ({type(error).__name__}: {reason}); {_WANTED}") from None
    for wrapped in ("algorithm", "state_dict", "model") if isinstance(content, Mapping) else ():  # the first is ours
        if isinstance(content.get(wrapped), Mapping):
            content = content[wrapped]
            break
    facts: dict[str, Any] = found | {name: metadata[name] for name in ("config_hash", "dataset") if name in metadata}
    node = facts.pop("encoder", None)
    return InitialWeights(_of_encoder(_tensors(content, path), path, product), node, facts)


_WANTED = "give a .safetensors file, or one of torch.save(model.state_dict(), FILE)"


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Raises ValueError for content that is not names and tensors."""
    if not isinstance(content, Mapping) or not content:
        raise InvalidValue(f"{path} holds a {type(content).__name__}, expected names and tensors; {_WANTED}")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise InvalidValue(f"{path}: {_listed(others)} is no tensor; {_WANTED}")
    broken = [name for name, value in content.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InvalidValue(f"{path}: {_listed(broken)} is not finite everywhere; give an earlier checkpoint")
    return {str(name): value for name, value in content.items()}


def _of_encoder(state: dict[str, Tensor], path: Path, product: str | None) -> dict[str, Tensor]:
    """The part that is an encoder, with an encoder's names."""
    parts = [part for part in _PARTS if any(name.startswith(part + _BACKBONE) for name in state)]
    if len(parts) == 2 and product is None:
        raise InvalidValue(
            f"{path} holds two encoders, a student's and a teacher's, and no run around it says which is its product; "
            "give the run's folder"
        )
    if parts:
        part = _PARTS[1] if product == "teacher" and _PARTS[1] in parts else parts[0]
        return {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
    if any(name.startswith(_BACKBONE) for name in state):
        return state
    return {name if name in STATISTICS else _BACKBONE + name: value for name, value in state.items()}


def timm_weights(name: str, file: Path | None, encoder: Encoder, arguments: Mapping[str, Any]) -> InitialWeights:
    """The weights of a model of timm, published or from a file, for the images of an encoder.

    timm adapts published ones to gray images and, where it can, to the image size. The pixel statistics are those of
    the model's own training; for gray images, their means over the channels.

    Args:
        name: Of the model.
        file: Weights of the whole model, or None for the published ones.
        encoder: Whose backbone is a `Timm`.
        arguments: Further arguments of ``timm.create_model``.

    Raises:
        ValueError: The weights cannot be fetched or read.
    """
    from timm.data import resolve_model_data_config
    from timm.models import load_state_dict

    channels, size, _ = encoder.input_shape
    with torch.random.fork_rng(devices=[]), quiet_hub():
        try:
            made = Timm(channels, size, name, file is None, dict(arguments))
        except InvalidValue as error:  # which speaks of a key that this way does not use
            without = f"give a file of its weights: init=timm:{name}@FILE"
            raise InvalidValue(str(error).replace("set model.encoder.pretrained=false", without)) from None
    known = made.body.pretrained_cfg or {}
    if file is None:
        state = made.body.state_dict()
    else:
        heads = known.get("classifier") or ()
        heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
        try:
            whole = load_state_dict(str(file))
        except Exception as error:  # whatever a file that is no file of weights raises
            reason = " ".join(str(error).split())[:200]
            raise InvalidValue(f"{file} cannot be read as weights of timm:{name} ({reason}); {_WANTED}") from None
        state = {key: value for key, value in _tensors(whole, file).items() if not key.startswith(heads)}
    config = resolve_model_data_config(made.body)
    own = {name: torch.tensor(config[name]) for name in STATISTICS}
    own = {name: value if channels == 3 else value.mean(0, keepdim=True) for name, value in own.items()}
    named = {f"{_BACKBONE}body.{name}": value for name, value in state.items()}
    return InitialWeights(named | {name: value.view(-1, 1, 1) for name, value in own.items()})


def load_weights(encoder: Encoder, weights: InitialWeights) -> None:
    """Give an encoder these weights, and their pixel statistics if they have some; refuse what does not fit.

    Raises:
        ValueError: A shape differs, or a name is missing or unexpected; nothing is loaded then.
    """
    own = encoder.state_dict()
    state = {name: own[name] for name in STATISTICS} | weights.state
    if problems := _misfits(own, state):
        raise InvalidValue(f"they do not fit {type(encoder.backbone).__name__}: {'; '.join(problems)}")
    encoder.load_state_dict(state)


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    shapes = [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    missing = [name for name in own if name not in state]
    unexpected = sorted(state.keys() - own.keys())
    found = [_listed(shapes)] if shapes else []
    found += [f"missing: {_listed(missing)}"] if missing else []
    return found + ([f"unexpected: {_listed(unexpected)}"] if unexpected else [])


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
