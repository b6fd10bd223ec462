"""Encoders of timm and torchvision: their own normalisation and size, weights from files, and what is refused."""

import socket

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ssl_runner.models import foreign
from ssl_runner.models.foreign import Foreign, timm_encoder, torchvision_encoder

NAME = "test_resnet"  # of timm: 0.5 million weights, made for 160 pixels


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "timm.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model(NAME).state_dict(), path)
    return path


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def nowhere(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_gray_images_become_what_timms_own_transform_makes_of_them(weights):
    encoder = timm_encoder(NAME, weights).eval()
    config = timm.data.resolve_model_data_config(timm.create_model(NAME))
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    side = config["input_size"][1]
    resized = F.interpolate(images.repeat(1, 3, 1, 1), (side, side), mode=config["interpolation"], antialias=True)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    assert torch.allclose(encoder.prepare(images), (resized / 255 - mean) / std, atol=1e-5)
    model = timm.create_model(NAME)
    model.load_state_dict(timm.models.load_state_dict(str(weights)))
    model.reset_classifier(0)
    with torch.no_grad():
        assert torch.allclose(encoder(images), model.eval()((resized / 255 - mean) / std), atol=1e-4)
    assert encoder.take((1, 28, 28))["resized"] == f"whole image, {config['interpolation']}"
    assert encoder.input_shape == (1, 28, 28)


def test_colored_images_become_gray_for_an_encoder_of_gray_ones():
    encoder = Foreign(torch.nn.Identity(), (1, 8, 8), [0.0], [1.0], "bilinear", {})
    red = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    red[:, 0] = 255
    assert torch.allclose(encoder.prepare(red), torch.full((1, 1, 8, 8), 0.299))
    with pytest.raises(ValueError, match="with C = 1 or 3"):
        encoder.prepare(torch.zeros(1, 2, 8, 8))


def test_torchvisions_encoder_is_the_classifier_without_its_last_layer(tmp_path):
    from torchvision import models

    model = models.mobilenet_v3_small()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    encoder = torchvision_encoder("mobilenet_v3_small", tmp_path / "weights.pth").eval()
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(model.eval().classifier[-1](encoder(images)), model(encoder.prepare(images)), atol=1e-5)
    assert encoder.made_for == (3, 224, 224)
    assert encoder.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize(("make", "close"), [(timm_encoder, "resnt18"), (torchvision_encoder, "resnt18")])
def test_a_misspelled_name_gets_the_nearest_one(make, close):
    with pytest.raises(ValueError, match="has no such model; did you mean 'resnet18'"):
        make(close, None)


@pytest.mark.parametrize("make", [timm_encoder, torchvision_encoder])
def test_without_a_network_one_message_says_what_is_missing_and_what_to_give(
    make, offline, capsys, monkeypatch, tmp_path
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ValueError, match=r"its weights \(.*\) cannot be fetched: .*@FILE"):
        make("resnet18", None)
    assert "Retrying" not in capsys.readouterr().err
    assert constants.HF_HUB_OFFLINE is False


def test_weights_of_another_model_and_other_files_are_refused(weights, tmp_path):
    with pytest.raises(ValueError, match="is not of this model: it lacks"):
        torchvision_encoder("mobilenet_v3_small", weights)
    (tmp_path / "text.pth").write_text("no weights")
    for make, name in ((timm_encoder, NAME), (torchvision_encoder, "mobilenet_v3_small")):
        with pytest.raises(ValueError, match="cannot be read as its weights"):
            make(name, tmp_path / "text.pth")


def test_random_draws_go_on_as_if_nothing_had_been_made(weights):
    before = torch.get_rng_state()
    timm_encoder(NAME, weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert foreign.timm_encoder(NAME, weights).out_features > 0
