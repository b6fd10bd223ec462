"""Attention whose backward pass is fast in bfloat16 on a CPU."""

from torch import nn


def attend_in_products(module: nn.Module) -> None:
    """Let timm's blocks attend by two products and a softmax instead of torch's fused attention.

    On a CPU, the backward pass of the fused one takes 37 ms in bfloat16 where that of the products takes 5 (64 images,
    50 tokens, 3 heads of 64 numbers, one thread with AMX); in float32 both take the same.
    """
    for part in module.modules():
        if isinstance(getattr(part, "fused_attn", None), bool):
            vars(part)["fused_attn"] = False
