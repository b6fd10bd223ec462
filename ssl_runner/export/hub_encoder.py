"""An encoder in Hugging Face's layout: config.json and model.safetensors in a folder or on the hub."""

from collections.abc import Sequence
from typing import Any

from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file

from ssl_runner.errors import InvalidValue
from ssl_runner.models.network import Encoder
from ssl_runner.models.saving import bare_encoder


class HubEncoder(Encoder, PyTorchModelHubMixin):
    """`Encoder` with ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``.

    Nothing of a stranger's folder is executed: the class is this one, ``encoder`` may only name trusted targets
    (`ssl_runner.config.targets`), and weights are read from safetensors only.

    Args:
        encoder: The config node that builds the backbone.
        input_shape: The (C, H, W) that it was built for.
        decoding: How files become pixels, see `Encoder`.
    """

    def __init__(
        self, encoder: dict[str, Any], input_shape: Sequence[int], decoding: dict[str, Any] | None = None
    ) -> None:
        blank = [0.0] * input_shape[0]
        super().__init__(bare_encoder(encoder, input_shape).backbone, input_shape, blank, blank)
        self.decoding = dict(decoding or {})

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        # always strict: the mixin's default would leave weights that the file lacks as they were drawn
        model.load_state_dict(load_file(model_file, device=map_location))
        return model.to(map_location).eval().requires_grad_(False)

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        raise InvalidValue(f"{model_file} is a pickle, which may run code; ask for model.safetensors instead")
