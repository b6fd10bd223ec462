"""Weights in files of several kinds: the same names, values and fingerprint, or one sentence on what is wrong."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.initial_weights import InitialWeights, load_weights, read_weights, timm_weights
from ssl_runner.models.network import Encoder
from ssl_runner.models.timm_encoder import Timm


def encoder(seed: int = 0, width: int = 4, channels: int = 1) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = Conv4(channels, 12, width, "max_pool", 2)
        for value in backbone.buffers():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return Encoder(backbone, (channels, 12, 12), [0.1 + seed] * channels, [0.3] * channels)


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


KINDS = {
    "encoder.safetensors": lambda state: state,
    "encoder.pt": lambda state: state,
    "checkpoint.pt": lambda state: {
        "algorithm": {f"network.encoder.{k}": v for k, v in state.items()} | {"network.head.weight": torch.ones(2)},
        "identity": {"config_hash": "a"},
        "optimizer": {},
        "step": 3,
    },
    "best.pt": lambda state: {f"network.encoder.{name}": value for name, value in state.items()},
    "lightning.ckpt": lambda state: {"state_dict": state, "epoch": 3},
    "half.pth": lambda state: {name: v.double() if v.is_floating_point() else v for name, v in state.items()},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_weights_and_fingerprint(kind, tmp_path):
    source, target, path = encoder(1), encoder(2), tmp_path / kind
    content = KINDS[kind](source.state_dict())
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    found = read_weights(path)
    load_weights(target, found)
    assert_same(target.state_dict(), source.state_dict())
    assert found.fingerprint == InitialWeights(source.state_dict()).fingerprint
    assert found.fingerprint != InitialWeights(encoder(2).state_dict()).fingerprint


def test_a_bare_backbone_keeps_the_pixel_statistics_of_the_images(tmp_path):
    source, target = encoder(1), encoder(2)
    torch.save(source.backbone.state_dict(), tmp_path / "backbone.pt")
    load_weights(target, read_weights(tmp_path / "backbone.pt"))
    assert_same(target.backbone.state_dict(), source.backbone.state_dict())
    assert torch.equal(target.mean, encoder(2).mean)


def test_a_checkpoint_with_a_teacher_gives_the_product_or_is_refused(tmp_path):
    student, teacher = encoder(1), encoder(2)
    both = {f"network.encoder.{name}": value for name, value in student.state_dict().items()}
    both |= {f"teacher.encoder.{name}": value for name, value in teacher.state_dict().items()}
    torch.save(both, tmp_path / "last.pt")
    for product, expected in (("student", student), ("teacher", teacher)):
        assert_same(read_weights(tmp_path / "last.pt", product).state, dict(expected.state_dict()))
    with pytest.raises(ValueError, match="holds two encoders, a student's and a teacher's"):
        read_weights(tmp_path / "last.pt")


def test_metadata_of_our_own_files_is_read(tmp_path):
    about = {"encoder": json.dumps({"_target_": "x"}), "input_shape": "[1, 12, 12]", "dataset": "d/train"}
    save_file(dict(encoder().state_dict()), tmp_path / "a.safetensors", about)
    found = read_weights(tmp_path / "a.safetensors")
    assert found.node == {"_target_": "x"}
    assert found.facts == {"input_shape": [1, 12, 12], "dataset": "d/train"}


class Runs:
    """Would run code when it is unpickled."""

    def __reduce__(self):
        return (print, ("code ran",))


CONTENTS = {
    "holds a list, expected names and tensors": [1, 2],
    "holds a dict, expected names and tensors": {},
    "lr is no tensor; give": {"weight": torch.ones(1), "lr": 0.1},
    "backbone.a is not finite everywhere": {"backbone.a": torch.tensor([1.0, float("nan")])},
    "cannot be read as weights": Runs(),
}


@pytest.mark.parametrize("message", CONTENTS)
def test_what_is_no_weights_is_refused_in_one_sentence_and_runs_no_code(message, tmp_path, capsys):
    torch.save(CONTENTS[message], tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message) as refused:
        read_weights(tmp_path / "a.pt")
    assert "\n" not in str(refused.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_damaged_file_is_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x08" * 64)
    with pytest.raises(ValueError, match=r"is damaged|cannot be read as weights"):
        read_weights(tmp_path / name)


def test_what_does_not_fit_is_told_name_by_name_and_nothing_is_loaded():
    target, state = encoder(2), dict(encoder(1).state_dict())
    del state["backbone.blocks.0.1.weight"]
    state["backbone.fc.weight"] = torch.ones(2)
    state["backbone.blocks.3.0.weight"] = torch.ones(2, 2)
    with pytest.raises(ValueError, match="they do not fit Conv4") as refused:
        load_weights(target, InitialWeights(state))
    text = str(refused.value)
    assert "backbone.blocks.3.0.weight has shape (2, 2), expected (4, 4, 3, 3)" in text
    assert "missing: backbone.blocks.0.1.weight" in text
    assert "unexpected: backbone.fc.weight" in text
    assert_same(target.state_dict(), encoder(2).state_dict())


def test_long_lists_of_names_are_cut():
    with pytest.raises(ValueError, match=r"missing: (\S+, ){3}\S+ and 20 more"):
        load_weights(encoder(), InitialWeights({}))


NAME = "test_resnet"  # of timm: 0.5 million weights


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return timm.create_model(NAME, num_classes=7)


def test_timms_weights_from_a_file_are_those_of_the_model_without_its_classifier(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "a.pth")
    target = Encoder(Timm(3, 32, NAME, False, {}), (3, 32, 32), [0.0] * 3, [1.0] * 3)
    before = torch.get_rng_state()
    load_weights(target, timm_weights(NAME, tmp_path / "a.pth", target, {}))
    assert torch.equal(torch.get_rng_state(), before)
    own, expected = target.backbone.body.state_dict(), model.state_dict()
    assert expected.keys() - own.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, expected[name]) for name, value in own.items())
    config = timm.data.resolve_model_data_config(model)
    assert target.mean.flatten().tolist() == pytest.approx(config["mean"])
    assert target.std.flatten().tolist() == pytest.approx(config["std"])


def test_timms_own_folder_is_read_and_adapted_to_gray_images(model, tmp_path):
    save_file(dict(model.state_dict()), tmp_path / "model.safetensors")
    kept = {key: model.pretrained_cfg[key] for key in ("classifier", "first_conv", "input_size")}
    kept |= {"num_classes": 7, "mean": [0.2, 0.4, 0.6], "std": [0.5] * 3}
    about = {"architecture": NAME, "num_classes": 7, "pretrained_cfg": kept}
    (tmp_path / "config.json").write_text(json.dumps(about))
    name = f"local-dir:{tmp_path}"
    target = Encoder(Timm(1, 32, name, False, {}), (1, 32, 32), [0.0], [1.0])
    load_weights(target, timm_weights(name, None, target, {}))
    first = next(name for name, value in model.named_parameters() if value.ndim == 4)
    summed = model.get_parameter(first).detach().sum(dim=1, keepdim=True)
    torch.testing.assert_close(target.backbone.body.get_parameter(first).detach(), summed)
    assert target.mean.item() == pytest.approx(0.4)


def test_timms_published_weights_without_a_network_give_one_message(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    target = Encoder(Timm(3, 32, "resnet18", False, {}), (3, 32, 32), [0.0] * 3, [1.0] * 3)
    with pytest.raises(ValueError, match="cannot be fetched: looked for in") as refused:
        timm_weights("resnet18", None, target, {})
    assert "give a file of its weights: init=timm:resnet18@FILE" in str(refused.value)
    assert "\n" not in str(refused.value)
