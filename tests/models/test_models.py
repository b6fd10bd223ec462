import pytest
import torch
import torch.nn.functional as F

from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.heads import Identity, Linear, Projector, Prototyped
from ssl_runner.models.network import Encoder
from ssl_runner.models.resnet import ResNet


@pytest.mark.parametrize("size", [5, 8, 28, 32, 84])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("downsample", ["max_pool", "stride"])
@pytest.mark.parametrize("grid", [None, 1, 2])
def test_conv4_declares_its_width_at_every_size(size, channels, downsample, grid):
    model = Conv4(channels, size, width=4, downsample=downsample, grid=grid)
    assert model(torch.rand(2, channels, size, size)).shape == (2, model.out_features)


@pytest.mark.parametrize(("size", "features"), [(28, 64), (84, 1600), (32, 256)])
def test_conv4_has_the_published_widths(size, features):
    assert Conv4(3, size, width=64, downsample="max_pool", grid=None).out_features == features


@pytest.mark.parametrize(("size", "channels", "side"), [(28, 1, 4), (32, 3, 4), (96, 3, 3)])
def test_resnet_keeps_small_images_large(size, channels, side):
    model = ResNet(channels, size, depth=18).eval()
    images = torch.rand(1, channels, size, size)
    assert model.feature_map(images).shape == (1, 512, side, side)
    assert model(images).shape == (1, model.out_features) == (1, 512)


def test_encoder_treats_bytes_and_floats_equally():
    torch.manual_seed(0)
    encoder = Encoder(Conv4(3, 16, 4, "max_pool", 1), (3, 16, 16), [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]).eval()
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(encoder(images), encoder(images.float() / 255))
    assert encoder.feature_map(images).shape[1] == 4


def test_heads_take_their_widths_from_the_encoder():
    features = torch.rand(3, 10)
    two = Projector(10, None, hidden_features=6, out_features=5, layers=2, last_norm=False)
    assert two(features).shape == (3, 5)
    three = Projector(10, None, hidden_features=6, out_features=None, layers=3, last_norm=True)
    assert three(features).shape == (3, 10)
    assert len([layer for layer in three if isinstance(layer, torch.nn.Linear)]) == 3
    assert Projector(10, None, hidden_features=6, out_features=5, layers=1, last_norm=False)(features).shape == (3, 5)
    assert Linear(10, 7)(features).shape == (3, 7)
    assert Identity(10, None)(features) is features


def test_a_classifier_without_classes_is_refused():
    with pytest.raises(ValueError, match="no classes"):
        Linear(10, None)


def test_dinos_head_normalises_batches_on_demand():
    """Scores equal the layers written out: with batch normalisation, moved and stretched layers change nothing."""
    torch.manual_seed(0)
    head = Prototyped(5, None, 8, 6, 11, batch_norm=True).double()
    features = torch.randn(7, 5, dtype=torch.float64)
    found, hidden = head(features), features
    for number in (0, 3):
        hidden = F.linear(hidden, head.layers[number].weight, head.layers[number].bias)
        hidden = F.gelu((hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, unbiased=False) + 1e-5).sqrt())
    last = F.linear(hidden, head.layers[6].weight, head.layers[6].bias)
    expected = F.normalize(last, dim=1) @ F.normalize(head.prototypes, dim=1).T
    torch.testing.assert_close(found, expected)
    assert not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in Prototyped(5, None, 8, 6, 11).layers)
