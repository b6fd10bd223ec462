import pytest
import torch
from torch import nn

from ssl_runner.models.depths import depths
from ssl_runner.models.network import Encoder
from ssl_runner.models.vit import ViT
from ssl_runner.optim import rates
from ssl_runner.optim.schedules import Constant, WarmupCosine, half_cosine


@pytest.fixture(scope="module")
def vit() -> ViT:
    return ViT(1, 8, "tiny", patch_size=4, registers=1)


def by_id(vit: ViT, *numbers: float) -> dict[int, float]:
    encoder = Encoder(vit, (1, 8, 8), [0.0], [1.0])
    found = rates.layer_factors(*depths(encoder), *numbers)
    return {id(value): found[name] for name, value in encoder.named_parameters()}


def dinov2(name: str, decay: float, patch_embed: float, blocks: int) -> float:
    """The factor of a parameter of timm's transformer, from the rule in words (DINOv2, arXiv:2304.07193's code)."""
    if name.startswith("patch_embed"):
        return decay ** (blocks + 1) * patch_embed
    if name.startswith(("cls_token", "reg_token", "pos_embed")):
        return decay ** (blocks + 1)
    if name.startswith("blocks"):
        return decay ** (blocks - int(name.split(".")[1]))
    assert name.startswith("norm")
    return decay  # deviation: with the last block


def test_factors_of_layers_are_those_of_dinov2(vit):
    found = by_id(vit, 0.9, 0.2)
    expected = {id(value): dinov2(name, 0.9, 0.2, 12) for name, value in vit.body.named_parameters()}
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key], rel=1e-12) for key in found)
    assert set(by_id(vit, 1.0).values()) == {1.0}


def test_factors_divide_groups_and_lose_no_parameter(vit):
    matrices, vectors = ([p for p in vit.body.parameters() if (p.ndim > 1) == big] for big in (True, False))
    other = nn.Parameter(torch.zeros(2, 2))
    given = [{"params": [*matrices, other]}, {"params": vectors, "weight_decay": 0.0}]
    groups = rates.with_factors(given, by_id(vit, 0.9, 0.2))
    places = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(places) == sorted(map(id, [*matrices, other, *vectors]))
    assert groups[0]["params"] == [other] and groups[0]["lr_factor"] == 1.0
    assert {id(p) for group in groups if group.get("weight_decay") == 0 for p in group["params"]} == set(
        map(id, vectors)
    )


def test_a_groups_factor_scales_its_rate_at_every_step_and_sgd_moves_by_it():
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = rates.with_factors([{"params": weights}], {id(weights[0]): 0.5, id(weights[1]): 0.25})
    optimizer = torch.optim.SGD(groups, lr=0.1)
    rates.begin(optimizer)
    for weight in weights:
        weight.grad = torch.ones(1)
    schedule = WarmupCosine(2, 0.0)
    moved = 0.0
    for step in range(6):
        rates.follow(optimizer, schedule, step, 6)
        optimizer.step()
        moved -= 0.1 * schedule(step, 6)
        assert rates.figures(optimizer, schedule) == {"lr": 0.1 * schedule(step, 6)}
    assert [weight.item() for weight in weights] == pytest.approx([0.5 * moved, 0.25 * moved, moved])


def test_an_optimizer_that_goes_on_from_its_state_has_the_rates_of_an_unbroken_one():
    def begun() -> torch.optim.Optimizer:
        first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
        optimizer = torch.optim.AdamW(rates.with_factors([{"params": [first, second]}], {id(second): 0.5}), lr=0.1)
        rates.begin(optimizer)
        return optimizer

    def at(optimizer: torch.optim.Optimizer, step: int) -> list[tuple[float, float]]:
        rates.follow(optimizer, WarmupCosine(2, 0.0, final_weight_decay=0.4), step, 10)
        return [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]

    unbroken, resumed = begun(), begun()
    at(unbroken, 5)
    resumed.load_state_dict(unbroken.state_dict())
    assert at(resumed, 6) == at(unbroken, 6)


def test_weight_decay_rises_where_there_is_some_and_nowhere_else():
    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [first]}, {"params": [second], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.04)
    rates.begin(optimizer)
    schedule = WarmupCosine(2, 0.0, final_weight_decay=0.4)
    for step in range(10):
        rates.follow(optimizer, schedule, step, 10)
        expected = half_cosine(0.04, 0.4, step / 10)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(expected), 0.0]
        assert rates.figures(optimizer, schedule)["weight_decay"] == pytest.approx(expected)
    assert 0.04 < expected < 0.4


def test_without_a_final_weight_decay_it_stays_what_a_group_says():
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.04)
    rates.begin(optimizer)
    optimizer.param_groups[0]["weight_decay"] = 0.3
    rates.follow(optimizer, Constant(), 5, 10)
    assert optimizer.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("numbers", [(0.0, 1.0), (1.1, 1.0), (0.9, 0.0)])
def test_factors_out_of_range_are_refused(numbers):
    with pytest.raises(ValueError, match="give a factor for each layer"):
        rates.layer_factors({"stem": 0}, 1, *numbers)
