"""timm's encoders on this project's images."""

import warnings
from typing import Any

import pytest
import timm
import torch

from ssl_runner.config.building import build
from ssl_runner.errors import ConfigError
from ssl_runner.models.timm_encoder import Timm
from ssl_runner.models.vit import ViT

# The smallest member of each of timm's families, by number of weights.
SMALL = """
    byoanet=halonet_h1 byobnet=test_byobnet cait=cait_xxs24_224 coat=coat_tiny convit=convit_tiny
    convmixer=convmixer_768_32 convnext=test_convnext cpubone=cpubone_nano crossvit=crossvit_tiny_240 csatv2=csatv2
    cspnet=cs3darknet_focus_s cspnext=cspnext_tiny davit=davit_tiny deit=deit_tiny_patch16_224 densenet=densenet121
    dla=dla46x_c dpn=dpn48b edgenext=edgenext_xx_small efficientformer=efficientformer_l1
    efficientformer_v2=efficientformerv2_s0 efficientnet=test_efficientnet efficientvim=efficientvim_m1
    efficientvit_mit=efficientvit_b0 efficientvit_msra=efficientvit_m0 eva=vit_tiny_patch16_dinov3_qkvb
    fasternet=fasternet_t0 fastvit=fastvit_t8 focalnet=focalnet_tiny_srf gcvit=gcvit_xxtiny ghostnet=ghostnet_050
    hardcorenas=hardcorenas_b hgnet=hgnetv2_b0 hiera=hiera_tiny_224 hieradet_sam2=sam2_hiera_tiny
    hrnet=hrnet_w18_small iformer=iformer_t inception_next=inception_next_atto inception_v3=inception_v3
    lcnetv2=lcnetv2_small levit=levit_128s lowformer=lowformer_b0 mambaout=test_mambaout maxxvit=test_coatnet
    metaformer=poolformerv2_s12 mlp_mixer=gmlp_ti16_224 mobilenetv3=lcnet_035 mobilevit=mobilevit_xxs
    mvitv2=mvitv2_tiny nest=nest_tiny nextvit=nextvit_small nfnet=test_nfnet pit=pit_ti_224 pvt_v2=pvt_v2_b0
    rdnet=rdnet_tiny regnet=regnetx_002 repghost=repghostnet_050 repvit=repvit_m1 res2net=res2next50
    resnest=resnest14d resnet=test_resnet resnetv2=resnetv2_18 rexnet=rexnet_100 selecsls=selecsls42
    senet=legacy_seresnet18 sequencer=sequencer2d_s shvit=shvit_s1 sknet=skresnet18 starnet=starnet_s050
    swiftformer=swiftformer_xs swin_transformer=swin_tiny_patch4_window7_224
    swin_transformer_v2=swinv2_tiny_window16_256 swin_transformer_v2_cr=swinv2_cr_tiny_224 tiny_vit=tiny_vit_5m_224
    tnt=tnt_s_legacy_patch16_224 tresnet=tresnet_m twins=twins_svt_small visformer=visformer_tiny
    vision_transformer=test_vit vision_transformer_hybrid=vit_tiny_r_s16_p8_224
    vision_transformer_relpos=test_vit_relpos vitamin=vitamin_small_224 volo=volo_d1_224 vovnet=ese_vovnet19b_slim_dw
    xception=legacy_xception xception_aligned=xception41p xcit=xcit_nano_12_p8_224
"""
# Even the smallest of these have 40 to 400 million weights, so only shapes are tested, on the meta device.
LARGE = """
    beit=beit_base_patch16_224 deepseek_vit=deepseek_vit_412m gemma4_vit=gemma4_vit_167m
    inception_resnet_v2=inception_resnet_v2 inception_v4=inception_v4 mobilenetv5=mobilenetv5_base
    naflexvit=naflexvit_base_patch16_parfac_gap nasnet=nasnetalarge pnasnet=pnasnet5large qwen3_vit=qwen3_vit_88m
    vgg=vgg11 vision_transformer_sam=samvit_base_patch16_224
"""
# models whose windows or patches do not fit images of 32 pixels (64 for the large models)
TOO_LARGE = {"halonet_h1", "crossvit_tiny_240", "csatv2", "efficientformer_l1", "inception_v3"}
TOO_LARGE |= {"deepseek_vit_412m", "inception_resnet_v2", "inception_v4"}


def members(table: str) -> dict[str, str]:
    """Names by family, for the families of the installed timm."""
    pairs = dict(word.split("=") for word in table.split())
    return {family: name for family, name in pairs.items() if timm.is_model(name)}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transformer_takes_small_images_gray_or_rgb_and_smaller_crops(channels):
    encoder = ViT(channels, 32, "tiny", 4).eval()
    assert encoder.out_features == 192
    assert encoder(torch.rand(2, channels, 32, 32)).shape == (2, 192)
    assert encoder(torch.rand(2, channels, 16, 16)).shape == (2, 192)
    assert encoder.feature_map(torch.rand(2, channels, 32, 16)).shape == (2, 192, 8, 4)


def test_a_transformers_map_has_each_patch_at_its_place():
    encoder = ViT(1, 32, "tiny", 8, registers=2).eval()
    encoder.body.blocks = encoder.body.blocks[:1]
    images = torch.rand(2, 1, 24, 32)
    maps, tokens = encoder.feature_map(images), encoder.body.forward_features(images)
    for row in range(3):
        for column in range(4):
            torch.testing.assert_close(maps[:, :, row, column], tokens[:, 3 + 4 * row + column])


def test_patch_sizes_that_do_not_fit_are_refused_with_a_list_of_those_that_do():
    with pytest.raises(ValueError, match="does not divide images of 28 pixels; give one of 2, 4, 7, 14"):
        ViT(1, 28, "tiny", 16)


def test_any_model_of_timm_by_name():
    encoder = Timm(1, 32, "convnext_atto", False, {})
    assert encoder(torch.rand(2, 1, 32, 32)).shape == (2, encoder.out_features)
    with pytest.raises(ValueError, match="no such model; did you mean 'resnet18'"):
        Timm(1, 32, "resnet_18", False, {})
    with pytest.raises(ValueError, match="timm refuses them"):
        Timm(1, 32, "resnet18", False, {"no_such_argument": 1})


def test_the_tables_contain_every_family_of_timm():
    tables = members(SMALL) | members(LARGE)
    assert set(timm.list_modules()) <= set(tables), "a newer timm has more: add their smallest members"
    for family, name in tables.items():
        assert name in timm.list_models(module=family)


@pytest.mark.parametrize("name", members(SMALL).values())
def test_one_of_each_family_returns_features_of_its_width_or_is_refused_in_one_sentence(name):
    encoder = made_or_refused(name, 32)
    if encoder is not None:
        assert encoder.training
        with torch.no_grad():
            assert encoder.eval()(torch.rand(1, 3, 32, 32)).shape == (1, encoder.out_features)


@pytest.mark.parametrize("name", members(LARGE).values())
def test_one_of_each_family_of_large_models_has_a_width_or_is_refused_in_one_sentence(name):
    with torch.device("meta"):
        encoder = made_or_refused(name, 64)
        if encoder is not None:
            assert encoder.eval()(torch.rand(1, 3, 64, 64)).shape == (1, encoder.out_features)


def made_or_refused(name: str, size: int) -> Timm | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from timm's own code
        if name not in TOO_LARGE:
            return Timm(3, size, name, False, {})
        with pytest.raises(ValueError, match=f"cannot take images of {size} pixels, timm built it for ...") as caught:
            Timm(3, size, name, False, {})
    assert "\n" not in str(caught.value)
    return None


@pytest.mark.parametrize("size", [16, 32, 48])
def test_a_model_of_a_fixed_size_is_built_for_the_images(size):
    encoder = Timm(1, size, "test_vit", False, {})
    assert encoder.body.patch_embed.img_size == (size, size)
    assert encoder(torch.rand(2, 1, size, size)).shape == (2, 64)


def test_an_explicit_size_is_kept_and_refused_if_it_is_not_that_of_the_images():
    with pytest.raises(ValueError, match=r"cannot take images of 32 pixels, timm built it for 224 \(.*64"):
        Timm(3, 32, "deit_tiny_patch16_224", False, {"img_size": 64})


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "ghostnet_050", "lcnet_035", "test_mambaout"])
def test_the_width_is_the_models_even_if_timm_states_another(name):
    encoder = Timm(3, 32, name, False, {})
    assert encoder.out_features != encoder.body.num_features
    assert encoder(torch.rand(2, 3, 32, 32)).shape == (2, encoder.out_features)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_depend_only_on_the_seed_and_measuring_the_width_changes_nothing(name):
    torch.manual_seed(0)
    sized: dict[str, Any] = {"img_size": 32} if name == "test_vit" else {}
    expected = timm.create_model(name, in_chans=3, num_classes=0, **sized)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    found = Timm(3, 32, name, False, {"drop_rate": 0.0}).body
    assert torch.equal(torch.get_rng_state(), state)
    for (key, mine), theirs in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), key
    assert all(part.training for part in found.modules())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("test_resnet", {"features_only": True}, "features_only=true gives a list of maps, expected one vector"),
        ("test_resnet", {"global_pool": ""}, "gives 96 x 1 x 1 for an image, expected one vector"),
        ("test_resnet", {"global_pool": "nonsense"}, "timm refuses them for images of 32 pixels"),
        ("test_resnet", {"act_layer": "nonsense"}, "timm refuses them"),
        ("test_resnet", {"num_classes": 10}, "num_classes is set already; remove it"),
        ("test_vit", {"patch_size": 0}, "timm refuses them"),
        ("test_vit", {"depth": "deep"}, "timm refuses them"),
        ("resnet18.no_such_tag", {}, "timm refuses them"),
    ],
)
def test_impossible_arguments_are_refused_in_one_sentence(name, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        Timm(3, 32, name, False, arguments)
    assert "\n" not in str(caught.value)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """The hub's client in its offline mode, with an empty cache, which it returns."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_weights_that_cannot_be_fetched_are_reported_with_source_and_remedy(no_network):
    node = {"_target_": "ssl_runner.models.timm_encoder.Timm", "_partial_": True, "name": "resnet18.a1_in1k"}
    with pytest.raises(ConfigError) as caught:
        build(node | {"pretrained": True, "arguments": {}}, "model.encoder")(3, 32)
    message = str(caught.value)
    assert "timm/resnet18.a1_in1k" in message
    assert str(no_network) in message
    assert "run once with a network" in message
    assert "model.encoder.pretrained=false" in message
    assert "\n" not in message


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_model_of_the_hub_is_looked_for_there(no_network, pretrained):
    with pytest.raises(ValueError, match="the model nobody/nothing cannot be fetched") as caught:
        Timm(3, 32, "hf-hub:nobody/nothing", pretrained, {})
    assert str(no_network) in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"name='local-dir:.*: timm cannot read that folder"):
        Timm(3, 32, f"local-dir:{tmp_path}", True, {})
    with pytest.raises(ValueError, match="Unknown model source"):
        Timm(3, 32, "nowhere:model", True, {})
