"""The same architecture with newly drawn weights."""

import copy

import pytest
import torch
from torch import nn

from ssl_runner.models.conv4 import Conv4
from ssl_runner.models.initialisation import initialised_anew
from ssl_runner.models.network import Encoder
from ssl_runner.models.timm_encoder import Timm
from ssl_runner.models.vit import ViT

STATE_OF_BATCH_NORM = {"running_mean": 0.0, "running_var": 1.0, "weight": 1.0, "bias": 0.0}


def encoder(backbone: nn.Module) -> Encoder:
    return Encoder(backbone, (1, 8, 8), mean=[0.3], std=[0.4])


def trained(made: Encoder) -> Encoder:
    """Changes every weight and average, as training would."""
    for tensor in [*made.backbone.parameters(), *made.backbone.buffers()]:
        if tensor.is_floating_point():
            tensor.data.fill_(3.25)
    return made.train().requires_grad_(False)


@pytest.mark.parametrize("make", [lambda: Conv4(1, 8, 4, "max_pool", 2), lambda: ViT(1, 8, "tiny", 4)])
def test_nothing_remains_of_the_training_and_the_original_is_unchanged(make):
    original = trained(encoder(make()))
    before = copy.deepcopy(original.state_dict())
    with torch.random.fork_rng():
        fresh = initialised_anew(original, 0)
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in before.items())
    for name, value in fresh.named_parameters():
        assert (value != 3.25).all() and value.isfinite().all() and value.requires_grad, name
    assert original.training and not fresh.training
    assert torch.equal(fresh.mean, original.mean) and torch.equal(fresh.std, original.std)


def test_batch_normalisation_is_reset():
    fresh = initialised_anew(trained(encoder(Conv4(1, 8, 4, "max_pool", 2))), 0)
    for name, value in fresh.backbone.blocks[0][1].state_dict().items():
        assert (value == STATE_OF_BATCH_NORM.get(name, 0)).all(), name


def test_weights_depend_on_the_seed_and_have_the_scale_of_their_class():
    original = trained(encoder(Conv4(1, 8, 64, "max_pool", 2)))
    first, again, other = (initialised_anew(original, seed).backbone.blocks[1][0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(0)
    own = Conv4(1, 8, 64, "max_pool", 2).blocks[1][0].weight
    assert first.std().item() == pytest.approx(own.std().item(), rel=0.02)


def test_weights_that_no_class_can_draw_are_refused():
    with pytest.raises(ValueError, match=r"gamma of the encoder belongs to a class without reset_parameters"):
        initialised_anew(encoder(Timm(1, 32, "convnext_atto", False, {})), 0)
