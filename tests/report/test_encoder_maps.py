"""Pictures of attention and of feature maps as colors."""

import pytest
import torch
from torch import nn

from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.network import Encoder
from ssl_runner.models.resnet import ResNet
from ssl_runner.models.timm_encoder import Timm
from ssl_runner.models.vit import ViT
from ssl_runner.report.encoder_maps import attention_picture, enlarged, log_encoder, principal_colors
from ssl_runner.report.maps import BRIGHT, DARK
from ssl_runner.report.pictures import GAP, gallery

CPU = torch.device("cpu")


class Writer:
    def __init__(self):
        self.pictures = {}

    def add_image(self, tag, picture, step):
        self.pictures[tag] = picture


def logged(backbone, size):
    encoder = Encoder(backbone, (1, size, size), [0.5], [0.5])
    images = torch.randint(0, 256, (3, 1, size, size), dtype=torch.uint8)
    writer = Writer()
    log_encoder(writer, encoder, images, CPU, 0)
    return writer.pictures


def small_vit(size: int = 32, patch: int = 8):
    backbone = ViT(1, size, "tiny", patch)
    backbone.body.blocks = backbone.body.blocks[:1]
    return backbone


@pytest.mark.parametrize(
    ("make", "size", "tags"),
    [
        (lambda: small_vit(), 32, {"class_attention", "feature_colors"}),
        (lambda: small_vit(32, 16), 32, {"class_attention"}),  # 2 x 2 patches
        (lambda: ResNet(1, 32, 18), 32, {"feature_colors"}),
        (lambda: Conv4(1, 28, 4, "max_pool", None), 28, set()),  # one pixel
        (lambda: Timm(1, 32, "test_vit", False, {"patch_size": 8}), 32, set()),  # tokens
        (lambda: Timm(1, 128, "test_convnext", False, {}), 128, {"feature_colors"}),
        (nn.Flatten, 32, set()),
    ],
    ids=["vit", "large patches", "resnet", "conv4", "tokens", "timm", "no map"],
)
def test_what_is_shown_is_what_the_encoder_has(make, size, tags):
    found = logged(make(), size)
    assert set(found) == tags
    for picture in found.values():
        assert picture.dtype == torch.uint8 and picture.float().std() > 10


def test_heads_have_a_row_each_below_their_mean():
    rows = logged(small_vit(), 32)["class_attention"].shape[1]
    assert rows == 5 * (64 + GAP) + GAP  # the original, the mean, three heads


def test_after_a_divergence_there_are_no_colors_and_no_error():
    backbone = small_vit()
    nn.init.constant_(backbone.body.norm.weight, torch.nan)
    assert set(logged(backbone, 32)) == {"class_attention"}


def test_attention_is_dark_at_zero_and_bright_at_the_largest_value_of_its_image():
    attention = torch.tensor([[[0.0, 0.2], [0.4, 0.1]], [[0.8, 0.0], [0.0, 0.8]]])
    picture = attention_picture(attention, (4, 4)) * 255
    assert picture.shape == (2, 3, 4, 4)
    bright, dark = (torch.tensor(color).float() for color in (BRIGHT, DARK))
    for image, row, column in ((0, 2, 0), (0, 3, 1), (1, 0, 0), (1, 3, 3)):
        torch.testing.assert_close(picture[image, :, row, column], bright)
    torch.testing.assert_close(picture[0, :, 0, 0], dark)
    torch.testing.assert_close(picture[0, :, 1, 3], (bright + dark) / 2)


def test_colors_are_the_principal_components_of_all_images_together():
    decomposition = pytest.importorskip("sklearn.decomposition")
    maps = torch.randn(4, 6, 5, 5) * torch.tensor([9.0, 1, 6, 1, 3, 1]).view(6, 1, 1)
    rows = maps.movedim(1, 3).reshape(-1, 6).double()
    expected = torch.from_numpy(decomposition.PCA(3, svd_solver="full").fit_transform(rows.numpy()))
    colors = principal_colors(maps)
    assert colors.shape == (4, 3, 5, 5) and colors.min() == 0 and colors.max() == 1
    for channel, component in zip(colors.movedim(1, 0).flatten(1).double(), expected.T, strict=True):
        inside = (channel > 0) & (channel < 1)
        assert inside.float().mean() > 0.9
        correlation = torch.corrcoef(torch.stack([channel[inside], component[inside]]))[0, 1]
        assert abs(correlation) == pytest.approx(1, abs=1e-4)


def test_colors_do_not_depend_on_the_sign_of_the_decomposition_or_on_where_an_image_stands():
    maps = torch.randn(4, 6, 5, 5)
    colors = principal_colors(maps)
    torch.testing.assert_close(principal_colors(maps.flip(0)), colors.flip(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(principal_colors(maps.flip(3)), colors.flip(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 2])
def test_missing_components_are_black(channels):
    colors = principal_colors(torch.randn(2, channels, 4, 4))
    assert (colors.amax(dim=(0, 2, 3)) > 0).tolist() == [True] * channels + [False] * (3 - channels)


def test_constant_features_have_one_color():
    colors = principal_colors(torch.ones(2, 8, 4, 4))
    assert colors.isfinite().all() and len(colors.movedim(1, 3).reshape(-1, 3).unique(dim=0)) == 1


def test_a_map_is_enlarged_by_repeating_its_pixels():
    pixels = torch.rand(1, 3, 2, 2)
    assert torch.equal(enlarged(pixels, (4, 6)), pixels.repeat_interleave(2, 2).repeat_interleave(3, 3))


def test_a_gallery_has_a_row_for_each_name():
    one, other = torch.rand(3, 1, 32, 32), torch.rand(3, 3, 32, 32)
    picture = gallery({"one": one, "the other": other})
    assert picture.shape[1] == 2 * (64 + GAP) + GAP
    last = picture[:, -(64 + GAP) : -GAP, -(64 + GAP) : -GAP]
    expected = (other[2] * 255).round().byte().repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(last, expected)
