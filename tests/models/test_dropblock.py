import pytest
import torch
import torch.nn.functional as F

from ssl_runner.models.dropblock import DropBlock


def dropped(drop_rate: float, block_size: int, side: int = 12, maps: int = 400, seed: int = 0) -> torch.Tensor:
    """Whether each value of (maps, 1, side, side) is dropped."""
    torch.manual_seed(seed)
    return DropBlock(drop_rate, block_size).train()(torch.ones(maps, 1, side, side)) == 0


@pytest.mark.parametrize(("block_size", "side"), [(1, 8), (3, 12), (5, 10), (5, 4), (4, 4)])
def test_it_drops_the_share_it_is_asked_for_but_for_squares_that_overlap(block_size, side):
    rate = 0.1
    share = dropped(rate, block_size, side, maps=4000).double().mean().item()
    size = min(block_size, side)
    seeds = (side - size + 1) ** 2
    probability = rate / size**2 * side**2 / seeds
    # a value is kept if none of the squares that cover it has a seed
    cover = F.conv2d(torch.ones(1, 1, side - size + 1, side - size + 1), torch.ones(1, 1, size, size), padding=size - 1)
    expected = 1 - (1 - probability) ** cover.double()
    assert share == pytest.approx(expected.mean().item(), rel=0.06)
    assert share <= rate * 1.06


@pytest.mark.parametrize("block_size", [2, 3, 5])
def test_what_is_dropped_is_a_union_of_whole_squares(block_size):
    lost = dropped(0.1, block_size).double()
    # opening: a value that is in a wholly dropped square
    inside = -F.max_pool2d(-lost, block_size, stride=1)
    again = F.max_pool2d(F.pad(inside, [block_size - 1] * 4), block_size, stride=1)
    assert lost.any() and torch.equal(again, lost)


def test_what_is_kept_is_scaled_so_that_equal_values_keep_their_sum():
    maps = torch.full((8, 5, 6, 6), 3.0, dtype=torch.float64)
    torch.manual_seed(0)
    result = DropBlock(0.3, 2).train()(maps)
    kept = result[result != 0]
    assert 0 < len(kept) < maps.numel()
    torch.testing.assert_close(kept, kept[:1].expand_as(kept))
    torch.testing.assert_close(result.sum(), maps.sum())


def test_each_channel_of_each_image_drops_its_own():
    torch.manual_seed(0)
    result = DropBlock(0.4, 2).train()(torch.ones(2, 2, 8, 8)).flatten(0, 1)
    assert len({tuple((part == 0).flatten().tolist()) for part in result}) == 4


def test_it_is_the_identity_in_evaluation_and_without_a_rate():
    maps = torch.randn(2, 3, 7, 7)
    assert DropBlock(0.5, 3).eval()(maps) is maps
    assert DropBlock(0.0, 3).train()(maps) is maps
    assert torch.equal(DropBlock(0.5, 3).train()(maps, torch.zeros(())), maps)


def test_the_draws_come_from_torchs_generator():
    assert torch.equal(dropped(0.2, 3), dropped(0.2, 3))
    assert not torch.equal(dropped(0.2, 3), dropped(0.2, 3, seed=1))


def test_gradients_are_those_of_what_is_kept():
    maps = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    result = DropBlock(0.3, 3).train()(maps)
    (slope,) = torch.autograd.grad(result.sum(), maps)
    torch.testing.assert_close(slope * maps, result)


def test_tasks_of_a_vectorised_loop_drop_different_squares():
    layer = DropBlock(0.3, 2).train()
    torch.manual_seed(0)
    result = torch.func.vmap(layer, randomness="different")(torch.ones(3, 2, 4, 8, 8))
    assert len({tuple((part == 0).flatten().tolist()) for part in result}) == 3


@pytest.mark.parametrize(("given", "message"), [((1.0, 3), "drop_rate=1.0"), ((0.1, 0), "block_size=0")])
def test_impossible_numbers_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        DropBlock(*given)
