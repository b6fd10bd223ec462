"""Transformers whose patches are left out or replaced, and whose tokens are read."""

import copy
import math

import pytest
import torch
from small_vits import encoder_of, small_vit

from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.initialisation import initialised_anew
from ssl_runner.models.patches import sincos
from ssl_runner.models.timm_encoder import Timm
from ssl_runner.models.vit import ViT, vit_of


def images(rows: int = 3, channels: int = 1, side: int = 16) -> torch.Tensor:
    return torch.randn(rows, channels, side, side, generator=torch.Generator().manual_seed(1)).double()


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


KINDS = [{}, {"positions": "sincos"}, {"registers": 3}, {"registers": 2, "positions": "sincos"}]


@pytest.mark.parametrize("changes", KINDS)
def test_tokens_of_whole_images_are_timms(changes):
    vit = small_vit(**changes)
    tokens = vit.tokens(images(), layers=2)
    expected = vit.body.forward_features(images())
    close(torch.cat([tokens.prefix, tokens.patches], dim=1), expected)
    assert tokens.prefix.shape[1] == 1 + changes.get("registers", 0)
    close(tokens.layers[0], torch.stack([*vit.body.forward_intermediates(images(), 2, norm=False)[1]])[0].flatten(2).mT)
    close(vit.body.norm(tokens.layers[-1]), tokens.patches)


@pytest.mark.parametrize("changes", KINDS)
def test_visible_patches_may_be_given_in_any_order(changes):
    vit = small_vit(**changes)
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(row)) for row in range(3)])
    whole, permuted = vit.tokens(images()), vit.tokens(images(), visible=order)
    close(permuted.prefix, whole.prefix)
    for row in range(3):
        close(permuted.patches[row], whole.patches[row, order[row]])
    some = order[:, :6]
    close(vit.tokens(images(), visible=some.flip(1)).patches.flip(1), vit.tokens(images(), visible=some).patches)


def test_visible_tokens_are_those_of_an_attention_without_the_others():
    """A naive forward pass over a shorter sequence: position 0 of the parameter is the class token's."""
    vit, visible = small_vit(), torch.tensor([[1, 4, 15]] * 3)
    body = vit.body
    pixels = images().unfold(2, 4, 4).unfold(3, 4, 4).reshape(3, 16, 16)
    projected = pixels @ body.patch_embed.proj.weight.flatten(1).T + body.patch_embed.proj.bias
    sequence = [(body.cls_token + body.pos_embed[:, :1]).expand(3, -1, -1)]
    sequence += [(projected[:, patch] + body.pos_embed[:, 1 + patch])[:, None] for patch in (1, 4, 15)]
    expected = body.norm(body.blocks(torch.cat(sequence, dim=1)))
    found = vit.tokens(images(), visible=visible)
    close(torch.cat([found.prefix, found.patches], dim=1), expected)


@pytest.mark.parametrize("hidden", ["dropped", "replaced"])
def test_nothing_depends_on_the_pixels_of_hidden_patches(hidden):
    vit, seen = small_vit(registers=1), images().requires_grad_()
    places = torch.tensor([[0, 5], [1, 2], [15, 8]])
    mask = torch.zeros(3, 16, dtype=torch.bool).scatter_(1, places, True)
    if hidden == "dropped":
        visible = torch.stack([(~row).nonzero()[:, 0] for row in mask])
        tokens = vit.tokens(seen, visible=visible)
    else:
        tokens = vit.tokens(seen, hidden=mask, mask_token=torch.randn(192).double())
    (tokens.prefix.square().sum() + tokens.patches.square().sum()).backward()
    patches = seen.grad.unfold(2, 4, 4).unfold(3, 4, 4).reshape(3, 16, 16).abs().sum(dim=-1)
    assert torch.equal(patches == 0, mask)


def test_replaced_patches_have_the_mask_token_with_their_own_position():
    vit, token = small_vit(), torch.randn(192).double()
    token.requires_grad_()
    hidden = torch.ones(3, 16, dtype=torch.bool)
    tokens = vit.tokens(images(), hidden=hidden, mask_token=token)
    sequence = torch.cat([vit.body.cls_token, token.expand(1, 16, -1)], dim=1) + vit.body.pos_embed
    expected = vit.body.norm(vit.body.blocks(sequence))
    close(tokens.patches, expected[:, 1:].expand(3, -1, -1))
    (gradient,) = torch.autograd.grad(tokens.patches.square().sum(), token)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("changes", KINDS)
def test_images_of_other_sizes_get_interpolated_positions_and_their_own_patches(changes):
    vit = small_vit(**changes)
    for side in (8, 24):
        found = vit.tokens(images(side=side))
        assert found.patches.shape == (3, (side // 4) ** 2, 192)
        close(torch.cat([found.prefix, found.patches], dim=1), vit.body.forward_features(images(side=side)))
        assert vit.feature_map(images(side=side)).shape == (3, 192, side // 4, side // 4)
    close(vit.feature_map(images())[:, :, 1, 2], vit.tokens(images()).patches[:, 6])


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize(
    ("features", "layers"), [("cls", 1), ("mean", 1), ("cls_mean", 1), ("cls", 2), ("cls_mean", 2)]
)
def test_features_are_class_token_and_mean_of_patches_of_the_last_blocks(features, layers, registers):
    vit = small_vit(features=features, layers=layers, registers=registers)
    sequence, parts = vit.body._pos_embed(vit.body.patch_embed(images())), []
    for block in vit.body.blocks:
        sequence = block(sequence)
        normed = vit.body.norm(sequence)
        cls, patches = normed[:, 0], normed[:, 1 + registers :]
        mean = sum(patches[:, patch] for patch in range(16)) / 16
        parts.append({"cls": [cls], "mean": [mean], "cls_mean": [cls, mean]}[features])
    expected = torch.cat([part for of_block in parts[-layers:] for part in of_block], dim=1)
    close(vit(images()), expected)
    assert vit.out_features == expected.shape[1]


@pytest.mark.parametrize("registers", [0, 2])
def test_attention_is_the_softmax_of_the_last_block_in_loops(registers):
    vit = small_vit(registers=registers)
    found = vit.attention(images())
    assert found.shape == (3, 3, 4, 4)
    sequence = vit.body._pos_embed(vit.body.patch_embed(images()))
    last = vit.body.blocks[1]
    rows = last.norm1(vit.body.blocks[0](sequence)) @ last.attn.qkv.weight.T + last.attn.qkv.bias
    for image in range(3):
        for head in range(3):
            query = rows[image, 0, 64 * head : 64 * head + 64]
            keys = rows[image, :, 192 + 64 * head : 192 + 64 * head + 64]
            scores = [(query * key).sum() / math.sqrt(64) for key in keys]
            total = sum(score.exp() for score in scores)
            expected = torch.stack([score.exp() / total for score in scores])[1 + registers :]
            close(found[image, head].flatten(), expected)
            assert 0 < found[image, head].sum() < 1


def test_drop_path_rises_from_0_with_depth_and_is_off_in_evaluation():
    vit = ViT(1, 16, "tiny", 4, drop_path=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.body.blocks]
    assert rates == pytest.approx([0.3 * depth / 11 for depth in range(12)])
    vit.eval()
    few = images().float()
    assert torch.equal(vit(few), vit(few))


def test_fixed_positions_are_sines_and_cosines_that_no_optimizer_changes():
    for registers in (0, 2):
        vit = small_vit(positions="sincos", registers=registers)
        fixed = vit.body.pos_embed
        assert not fixed.requires_grad
        close(fixed[0, -16:], sincos(vit.grid, 192).double())
        assert fixed[0, :-16].abs().sum() == 0


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_weights_that_are_drawn_anew_leave_fixed_positions(positions):
    made = encoder_of(small_vit(positions=positions)).float()
    with torch.random.fork_rng():
        fresh = initialised_anew(made, 0)
    one, other = made.backbone.body.pos_embed, fresh.backbone.body.pos_embed
    assert torch.equal(one, other) == (positions == "sincos") == (not other.requires_grad)
    assert not torch.equal(made.backbone.body.blocks[0].mlp.fc1.weight, fresh.backbone.body.blocks[0].mlp.fc1.weight)


def test_weights_of_earlier_versions_load_and_give_the_same_features():
    """Up to now it was timm's model under the name ``body``, and its own pooling gave the class token."""
    arguments = {"img_size": 16, "patch_size": 4, "dynamic_img_size": True}
    old = Timm(1, 16, "vit_tiny_patch16_224", False, arguments)
    new = ViT(1, 16, "tiny", 4)
    new.load_state_dict(old.state_dict())
    few = images().float()
    assert torch.equal(new.eval()(few), old.eval()(few))


def test_the_first_weights_are_those_of_earlier_versions():
    for make in (lambda: ViT(1, 16, "tiny", 4), lambda: ViT(1, 16, "tiny", 4, "mean", 2)):
        torch.manual_seed(0)
        made = make().state_dict()
        torch.manual_seed(0)
        old = Timm(
            1, 16, "vit_tiny_patch16_224", False, {"img_size": 16, "patch_size": 4, "dynamic_img_size": True}
        ).state_dict()
        assert made.keys() == old.keys() and all(torch.equal(made[name], old[name]) for name in old)


@pytest.mark.parametrize("hidden", [None, "dropped", "replaced"])
def test_half_precision_keeps_tokens_close(hidden):
    vit = small_vit().float()
    few, visible = images().float(), torch.arange(8).expand(3, -1)
    arguments: dict = {"visible": visible} if hidden == "dropped" else {}
    if hidden == "replaced":
        arguments = {"hidden": torch.arange(16).expand(3, -1) % 2 == 0, "mask_token": torch.ones(192)}
    with torch.autocast("cpu", torch.bfloat16):
        low = vit.tokens(few, **arguments)
    full = vit.tokens(few, **arguments)
    for one, other in zip(low[:2], full[:2], strict=True):
        assert (one.float() - other).abs().max() < 0.15 * other.abs().max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 5}, "patch_size=5 does not divide images of 16 pixels; give one of 2, 4, 8"),
        ({"features": "max"}, "features='max' is not one of"),
        ({"positions": "fixed"}, "positions='fixed' is not one of"),
        ({"layers": 0}, "layers=0; this transformer has 12 blocks"),
        ({"layers": 13}, "layers=13"),
        ({"registers": -1}, "registers=-1"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
    ],
)
def test_impossible_transformers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_vit(**changes)


def test_only_these_transformers_have_patches_that_can_be_hidden():
    vit = small_vit()
    assert vit_of(vit) is vit
    with pytest.raises(ValueError, match="Conv4 has no patches that could be hidden; choose model/encoder=vit_tiny"):
        vit_of(Conv4(1, 8, 4, "max_pool", 2))


def test_a_copy_is_independent():
    vit = small_vit()
    other = copy.deepcopy(vit)
    with torch.no_grad():
        other.body.blocks[0].mlp.fc1.weight.zero_()
    assert not torch.equal(vit.tokens(images()).patches, other.tokens(images()).patches)
