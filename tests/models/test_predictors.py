"""Predictors, each beside a naive one."""

import pytest
import torch
import torch.nn.functional as F

from ssl_runner.models import predictors
from ssl_runner.models.patches import Grid, sincos
from ssl_runner.models.predictors import ConvolutionalPredictor, LinearPredictor, TransformerPredictor
from ssl_runner.models.vit import Tokens

GRID, WIDTH, ROWS = Grid(4, 5), 16, 3


def transformer(**changes) -> TransformerPredictor:
    torch.manual_seed(0)
    settings = {"predictor_width": 24, "depth": 2, "heads": 3} | changes
    made = TransformerPredictor(WIDTH, 7, GRID, **settings).double()
    for weight in made.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return made


def convolutional(**changes) -> ConvolutionalPredictor:
    torch.manual_seed(0)
    settings = {"predictor_width": 24, "depth": 3, "kernel_size": 3, "groups": 4} | changes
    return ConvolutionalPredictor(WIDTH, 7, GRID, **settings).double()


def places(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(20, generator=generator)[:count] for _ in range(ROWS)])


def tokens(count: int = 20, prefix: int = 2) -> Tokens:
    generator = torch.Generator().manual_seed(3)
    return Tokens(
        torch.randn(ROWS, prefix, WIDTH, generator=generator).double(),
        torch.randn(ROWS, count, WIDTH, generator=generator).double(),
    )


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_linear_predictor_reads_the_token_at_the_place():
    torch.manual_seed(0)
    made, seen, targets = LinearPredictor(WIDTH, 7, GRID).double(), tokens(), places(6).unflatten(1, (2, 3))
    found = made(seen, None, targets)
    for r in range(ROWS):
        for q in range(2):
            for p in range(3):
                expected = made.layer.weight @ seen.patches[r, targets[r, q, p]] + made.layer.bias
                close(found[r, q, p], expected)
    assert made.reads_hidden and not TransformerPredictor.reads_hidden


@pytest.mark.parametrize("all_visible", [False, True])
def test_a_transformer_predicts_each_group_by_itself(all_visible):
    made = transformer()
    visible = None if all_visible else places(8)
    seen = tokens(20 if all_visible else 8)
    targets = places(9, seed=1).unflatten(1, (3, 3))
    found = made(seen, visible, targets)
    assert found.shape == (ROWS, 3, 3, 7)
    for group in range(3):
        close(found[:, group], made(seen, visible, targets[:, group : group + 1])[:, 0])
    together = made(seen, visible, targets.flatten(1)[:, None]).unflatten(2, (3, 3))[:, 0]
    assert (found - together).abs().max() > 1e-3  # in one group, they see each other


def test_a_transformer_equals_one_sequence_after_the_other():
    made, seen, visible, targets = transformer(), tokens(8), places(8), places(4, seed=1)[:, None]
    positions = sincos(GRID, 24).double()
    found = made(seen, visible, targets)
    for r in range(ROWS):
        sequence = [made.embed(token) for token in seen.prefix[r]]
        pairs = zip(seen.patches[r], visible[r].tolist(), strict=True)
        sequence += [made.embed(token) + positions[place] for token, place in pairs]
        sequence += [made.mask_token + positions[place] for place in targets[r, 0].tolist()]
        expected = made.out(made.norm(made.blocks(torch.stack(sequence)[None])))[0, -4:]
        close(found[r, 0], expected)


@pytest.mark.parametrize("make", [transformer, convolutional])
def test_the_order_of_visible_patches_does_not_matter(make, monkeypatch):
    monkeypatch.setattr(predictors, "NOISE", 0.0)
    made, seen, visible, targets = make(), tokens(8), places(8), places(4, seed=1)[:, None]
    order = torch.randperm(8)
    shuffled = Tokens(seen.prefix, seen.patches[:, order])
    close(made(shuffled, visible[:, order], targets), made(seen, visible, targets))


def test_the_order_of_targets_does_not_matter():
    made, seen, visible, targets = transformer(), tokens(8), places(8), places(4, seed=1)[:, None]
    order = torch.tensor([2, 0, 3, 1])
    close(made(seen, visible, targets[..., order]), made(seen, visible, targets)[:, :, order])


@pytest.mark.parametrize("width", [24, WIDTH])
def test_a_convolutional_predictor_equals_loops_over_a_filled_grid(width):
    """With as many channels as the tokens have, the first layer has a residual connection too."""
    made, seen, visible, targets = convolutional(predictor_width=width), tokens(8), places(8), places(6, seed=1)
    torch.manual_seed(4)
    found = made(seen, visible, targets.unflatten(1, (2, 3))).flatten(1, 2)
    torch.manual_seed(4)
    noise = torch.randn(ROWS, 20, WIDTH).double() * 0.01
    for r in range(ROWS):
        maps = noise[r].clone()
        for token, place in zip(seen.patches[r], visible[r].tolist(), strict=True):
            maps[place] = token
        maps = maps.T.unflatten(1, GRID)
        for layer in made.layers:
            padded = F.pad(maps, (1, 1, 1, 1))
            rows = []
            share_in, share_out = len(maps) // 4, len(layer.weight) // 4
            for y in range(GRID.height):
                for x in range(GRID.width):
                    window = padded[:, y : y + 3, x : x + 3]
                    outputs = [
                        (layer.weight[c] * window[c // share_out * share_in :][:share_in]).sum() + layer.bias[c]
                        for c in range(len(layer.weight))
                    ]
                    value = torch.stack(outputs)
                    rows.append(F.gelu((value - value.mean()) / (value.var(correction=0) + 1e-5).sqrt()))
            fresh = torch.stack(rows, dim=1).unflatten(1, GRID)
            maps = fresh + maps if len(fresh) == len(maps) else fresh
        for p, place in enumerate(targets[r].tolist()):
            close(found[r, p], made.out(maps[:, place // 5, place % 5]))


def test_noise_depends_on_torchs_seed_only():
    made, seen, visible, targets = convolutional(), tokens(8), places(8), places(4, seed=1)[:, None]
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(made(seen, visible, targets))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("make", [transformer, convolutional])
def test_gradients_reach_the_tokens_and_every_weight(make):
    made, seen = make(), tokens(8)
    seen = Tokens(*(part.requires_grad_() for part in seen[:2]))
    made(seen, places(8), places(4, seed=1)[:, None]).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in made.parameters())
    assert seen.patches.grad.abs().sum() > 0
    assert (seen.prefix.grad is not None) == isinstance(made, TransformerPredictor)


@pytest.mark.parametrize("make", [transformer, convolutional])
def test_half_precision_is_close(make):
    made, seen = make().float(), Tokens(*(part.float() for part in tokens(8)[:2]))
    arguments = places(8), places(4, seed=1)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        low = made(Tokens(seen.prefix.bfloat16(), seen.patches.bfloat16()), *arguments)
    torch.manual_seed(0)
    full = made(seen, *arguments)
    assert (low.float() - full).abs().max() < 0.15 * full.abs().max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transformer(depth=0), "depth=0"),
        (lambda: transformer(heads=5), "heads=5"),
        (lambda: transformer(predictor_width=6), "width=6"),
        (lambda: convolutional(depth=0), "depth=0"),
        (lambda: convolutional(kernel_size=2), "kernel_size=2"),
        (lambda: convolutional(groups=5), "groups=5"),
        (lambda: convolutional(groups=0), "groups=0"),
        (lambda: transformer(predictor_width=0), "predictor_width=0"),
    ],
)
def test_impossible_predictors_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
