"""An encoder in its file: blocks that share weights, and encoders that cannot be saved, reported before training."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ssl_runner.cli import validate
from ssl_runner.cli.compose import Composer
from ssl_runner.cli.search_path import conf_folder
from ssl_runner.errors import ConfigError
from ssl_runner.models import saving
from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.network import Encoder
from ssl_runner.training import checkpoint
from ssl_runner.wiring import wire

NODE = {"_target_": "ssl_runner.models.timm_encoder.Timm", "_partial_": True, "name": "coat_tiny", "pretrained": False}


class Shared(nn.Module):
    """Two names for one layer, and a buffer that is a row of another."""

    out_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)
        table = torch.rand(3, 4)
        self.register_buffer("table", table)
        self.register_buffer("row", table[1])


class Stateful(nn.Linear):
    def get_extra_state(self):
        return {"steps": object()}


def encoder_of(backbone: nn.Module) -> Encoder:
    return Encoder(backbone, (1, 2, 2), [0.5], [0.5])


def test_weights_that_blocks_share_are_written_for_each_block(tmp_path):
    encoder = encoder_of(Shared())
    saving.rehearse_saving(encoder, NODE, None, None, {})
    saving.save_encoder(encoder, NODE, None, None, tmp_path, {"dataset": "here"})
    found = load_file(tmp_path / saving.FILE)
    assert sorted(found) == sorted(encoder.state_dict())
    for name, value in encoder.state_dict().items():
        assert torch.equal(found[name], value), name
    metadata = saving.read_metadata(tmp_path / saving.FILE)
    assert metadata["dataset"] == "here"
    assert json.loads(metadata["encoder"]) == NODE


def test_a_timm_model_whose_blocks_share_weights_is_loaded_unchanged(tmp_path):
    node = NODE | {"arguments": {}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = saving.bare_encoder(node, (3, 32, 32)).eval()
    encoder.std.fill_(1)
    saving.save_encoder(encoder, node, None, None, tmp_path, {})
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(saving.load_encoder(tmp_path)(images), encoder(images))


@pytest.mark.parametrize("limit", [saving.REHEARSED, 0])
def test_the_rehearsal_reports_what_the_file_cannot_hold(limit, monkeypatch):
    monkeypatch.setattr(saving, "REHEARSED", limit)
    saving.rehearse_saving(encoder_of(nn.Linear(4, 4)), NODE, 10, None, {"dataset": "here"})
    for backbone, metadata in ((Stateful(4, 4), {}), (nn.Linear(4, 4), {"dataset": "\udce9t\udce9"})):
        with pytest.raises(ValueError, match=r"the encoder \(\w+\) could not be saved as encoder\.safetensors after"):
            saving.rehearse_saving(encoder_of(backbone), NODE, 10, None, metadata)


def test_the_rehearsal_reports_a_checkpoint_that_could_not_be_read_again():
    identity = checkpoint.Identity("hash", "fingerprint", 1)
    for model in (Shared(), nn.BatchNorm2d(3)):
        checkpoint.rehearse(model, torch.optim.Adam(model.parameters()), identity)
    model = Stateful(4, 4)
    with pytest.raises(ValueError, match="a checkpoint of Stateful with SGD could not be written and read again"):
        checkpoint.rehearse(model, torch.optim.SGD(model.parameters(), lr=0.1), identity)


def test_a_run_rehearses_saving_before_training(monkeypatch):
    config, _ = validate.checked_config(Composer(conf_folder()), ["trainer.device=cpu"])
    assert wire.prepare(config).evaluators
    monkeypatch.setattr(Conv4, "get_extra_state", lambda self: object(), raising=False)
    with pytest.raises(ConfigError, match=r"the encoder \(Conv4\) could not be saved"):
        wire.prepare(config)


def test_loading_an_encoder_does_not_fetch_its_pretrained_weights_again(tmp_path, monkeypatch):
    import huggingface_hub.constants

    node = NODE | {"name": "resnet18", "arguments": {}}
    encoder = saving.bare_encoder(node, (3, 32, 32))
    saving.save_encoder(encoder, node | {"pretrained": True}, None, None, tmp_path, {})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert saving.load_encoder(tmp_path).out_features == 512
