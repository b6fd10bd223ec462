"""Attention by products equals torch's fused attention."""

import pytest
import torch
from torch import nn

from ssl_runner.models.attention_in_products import attend_in_products
from ssl_runner.models.predictors import TransformerPredictor
from ssl_runner.models.vit import ViT


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_features_and_gradients_stay_the_same(precision):
    torch.manual_seed(0)
    vit, images, along = ViT(1, 16, "tiny", 4), torch.rand(3, 1, 16, 16), torch.randn(3, 192)
    found = []
    for _ in range(2):
        vit.zero_grad()
        features = vit.to(precision)(images.to(precision))
        (features * along.to(precision)).sum().backward()  # a sum of squares after a layer norm has no gradient
        found.append((features.detach(), vit.body.blocks[0].attn.qkv.weight.grad.clone()))
        attend_in_products(vit)
    for before, after in zip(*found, strict=True):
        error = (after - before).double().norm() / before.double().norm()
        assert error < (1e-12 if precision == torch.float64 else 0.03)


def test_no_block_is_left_with_the_fused_one():
    parts = nn.ModuleList([ViT(1, 8, "tiny", 4), TransformerPredictor(192, 16, ViT(1, 8, "tiny", 4).grid, 24, 2, 3)])
    attend_in_products(parts)
    flags = [part.fused_attn for part in parts.modules() if hasattr(part, "fused_attn")]
    assert len(flags) == 14 and not any(flags)
