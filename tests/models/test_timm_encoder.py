"""timm's encoders on the images of this house."""

import pytest
import torch

from ssl_runner.models.timm_encoder import Timm, ViT


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transformer_takes_small_images_grey_or_rgb_and_smaller_crops(channels):
    encoder = ViT(channels, 32, "tiny", 4).eval()
    assert encoder.out_features == 192
    assert encoder(torch.rand(2, channels, 32, 32)).shape == (2, 192)
    assert encoder(torch.rand(2, channels, 16, 16)).shape == (2, 192)
    assert encoder.feature_map(torch.rand(2, channels, 32, 32)).shape == (2, 65, 192)


def test_patches_that_do_not_fit_are_refused_with_those_that_do():
    with pytest.raises(ValueError, match="does not divide images of 28 pixels; give one of 2, 4, 7, 14"):
        ViT(1, 28, "tiny", 16)


def test_any_model_of_timm_by_name():
    encoder = Timm(1, 32, "convnext_atto", False, {})
    assert encoder(torch.rand(2, 1, 32, 32)).shape == (2, encoder.out_features)
    with pytest.raises(ValueError, match="no such model; did you mean 'resnet18'"):
        Timm(1, 32, "resnet_18", False, {})
    with pytest.raises(ValueError, match="timm refuses them"):
        Timm(1, 32, "resnet18", False, {"no_such_argument": 1})
