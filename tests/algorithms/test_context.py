import pytest
import torch
import torch.nn.functional as F
from small_readers import WAYS, reader, task

from ssl_runner.algorithms.in_context_transformer import InContextTransformer


@pytest.mark.parametrize("label_scale", [1.0, 10.0])
def test_it_is_torchs_transformer_over_one_masked_sequence(label_scale):
    """Support and queries in one sequence, where all attend to the support only."""
    algorithm = reader(InContextTransformer, width=8, depth=2, heads=2, label_scale=label_scale)
    support, labels, query = task()
    one_hot = F.one_hot(labels, WAYS).double()
    unknown = torch.zeros(*query.shape[:2], WAYS, dtype=torch.float64)
    shown = torch.cat([support, label_scale * one_hot], 2)
    tokens = algorithm.token(torch.cat([shown, torch.cat([query, unknown], 2)], 1))
    closed = torch.zeros(tokens.shape[1], tokens.shape[1], dtype=torch.bool)
    closed[:, support.shape[1] :] = True
    for block in algorithm.blocks:
        layer = torch.nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, norm_first=True, batch_first=True).double()
        ours, theirs = block.attention, layer.self_attn
        parts = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
        theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
        theirs.out_proj.load_state_dict(ours.out.state_dict())
        layer.norm1.load_state_dict(block.attention_norm.state_dict())
        layer.norm2.load_state_dict(block.perceptron_norm.state_dict())
        layer.linear1.load_state_dict(block.perceptron[0].state_dict())
        layer.linear2.load_state_dict(block.perceptron[2].state_dict())
        tokens = layer(tokens, src_mask=closed)
    expected = algorithm.score(algorithm.norm(tokens[:, support.shape[1] :]))
    torch.testing.assert_close(algorithm.read(support, one_hot, query), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"depth": 0}, "depth=0"),
        ({"width": 9}, "width=9"),
        ({"heads": 0}, "heads=0"),
        ({"label_scale": 0}, "label_scale=0"),
    ],
)
def test_impossible_sizes_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        reader(InContextTransformer, **{"width": 8, "depth": 2, "heads": 2} | changed)
