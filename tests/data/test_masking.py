"""What is hidden of images: shares, chances, shapes and places, beside lists and loops."""

import math

import pytest
import torch
from scipy import stats

from ssl_runner.data.masking import BlockMasking, Masks, MultiBlockMasking, RandomMasking
from ssl_runner.data.masking import block as blocks
from ssl_runner.data.masking.block import rectangles
from ssl_runner.data.masking.masking import Masking, count_of, of_hidden
from ssl_runner.models.patches import Grid
from ssl_runner.runtime import process_group, randomness

GRID = Grid(8, 8)
CPU = torch.device("cpu")


def random(**changes) -> RandomMasking:
    return RandomMasking(**{"share": 0.75, "unit": 1, "masks": 1, **changes})


def block(**changes) -> BlockMasking:
    settings = {"share": (0.1, 0.5), "probability": 0.5, "aspect": 0.3, "smallest": 4, "inverse": False, "masks": 1}
    return BlockMasking(**{**settings, **changes})


def multi_block(**changes) -> MultiBlockMasking:
    settings = {"targets": 4, "target_scale": (0.15, 0.2), "target_aspect": (0.75, 1.5), "context_scale": (0.85, 1.0)}
    return MultiBlockMasking(**{**settings, "least_context": 10, "masks": 1, **changes})


ALL = {
    "random": random(),
    "random squares": random(unit=2, share=0.6),
    "several random": random(masks=3),
    "blocks": block(masks=2),
    "blocks of one size": block(share=(0.4, 0.4), probability=1.0),
    "visible blocks": block(share=(0.8, 0.8), probability=1.0, inverse=True),
    "multi-block": multi_block(masks=2),
}


def drawn(masking: Masking, step: int = 3, views: int = 2, images: int = 12, grid: Grid = GRID, seed: int = 5) -> Masks:
    return masking(seed, step, views, images, grid, CPU)


def lists(tensor: torch.Tensor) -> list:
    """Over views, masks and images: the rest of a tensor, as lists."""
    return tensor.flatten(0, 2).tolist()


@pytest.mark.parametrize("name", ALL)
def test_targets_are_hidden_visible_patches_are_sorted_and_weights_sum_to_1_or_0(name):
    masks = drawn(ALL[name], images=40)
    rows = zip(lists(masks.hidden), lists(masks.targets), lists(masks.weights), strict=True)
    for hidden, groups, weights in rows:
        weighted = [
            (patch, weight)
            for group, of in zip(groups, weights, strict=True)
            for patch, weight in zip(group, of, strict=True)
            if weight > 0
        ]
        assert all(hidden[patch] for patch, _ in weighted)
        assert sum(weight for _, weight in weighted) == pytest.approx(1 if any(hidden) else 0, abs=1e-6)
        assert len({weight for _, weight in weighted}) <= 1
    if masks.visible is None:
        return
    for hidden, visible in zip(lists(masks.hidden), lists(masks.visible), strict=True):
        assert visible == [patch for patch in range(64) if not hidden[patch]]


@pytest.mark.parametrize("name", ALL)
def test_a_mask_is_a_function_of_seed_step_and_row(name):
    masking, first = ALL[name], drawn(ALL[name])
    drawn(masking, step=4)
    torch.manual_seed(1)
    torch.rand(3)
    assert all(map(torch.equal, first.tensors(), drawn(masking).tensors()))
    for other in (drawn(masking, step=4), drawn(masking, seed=6)):
        assert other.hidden.shape == first.hidden.shape and not torch.equal(other.hidden, first.hidden)
    rows = {tuple(row) for row in lists(first.hidden) if any(row)}
    assert len(rows) > 0.9 * sum(any(row) for row in lists(first.hidden))  # all drawn apart


@pytest.mark.parametrize("name", ALL)
def test_each_of_two_processes_has_its_rows_of_what_one_draws(name, monkeypatch):
    whole = drawn(ALL[name])
    monkeypatch.setattr(process_group, "size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
        own = drawn(ALL[name])
        expected = whole.each(lambda tensor, rank=rank: tensor[:, :, 6 * rank : 6 * rank + 6])
        assert len(own.tensors()) == len(expected.tensors())
        assert all(map(torch.equal, own.tensors(), expected.tensors()))


def test_parts_of_masks_are_those_of_their_images():
    masks = drawn(random(masks=3), images=7)
    parts = masks.chunk(3)
    assert [part.hidden.shape[2] for part in parts] == [3, 3, 1]
    for name in ("hidden", "targets", "weights", "visible"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts], dim=2), getattr(masks, name))


# random


@pytest.mark.parametrize(
    ("share", "unit", "grid", "count"),
    [(0.75, 1, GRID, 48), (0.6, 1, Grid(7, 7), 29), (0.6, 2, GRID, 40), (0.999, 1, GRID, 63), (0.001, 4, GRID, 16)],
)
def test_exactly_the_share_is_hidden_in_every_image(share, unit, grid, count):
    masks = drawn(random(share=share, unit=unit), grid=grid)
    assert masks.hidden.sum(dim=-1).unique().tolist() == [count]
    assert masks.targets.shape[-2:] == (1, count)
    assert masks.visible is not None and masks.visible.shape[-1] == grid.patches - count


def test_squares_are_hidden_whole():
    hidden = drawn(random(share=0.5, unit=2)).hidden.unflatten(-1, GRID)
    squares = hidden.unflatten(-1, (4, 2)).unflatten(-3, (4, 2)).transpose(-2, -3).flatten(-2)
    assert (squares.all(dim=-1) | ~squares.any(dim=-1)).all()


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_every_patch_is_as_likely_to_be_hidden_and_so_is_every_pair(share):
    hidden = drawn(random(share=share), images=4000, views=1).hidden.flatten(0, 2).double()
    n, chance = len(hidden), share
    found = ((hidden.sum(dim=0) - n * chance) ** 2 / (n * chance * (1 - chance))).sum() * 63 / 64
    assert 1e-3 < stats.chi2.sf(found.item(), 63) < 1 - 1e-3
    pairs = (hidden.T @ hidden)[~torch.eye(64, dtype=torch.bool)] / n
    expected = chance * (64 * chance - 1) / 63  # without replacement
    deviation = math.sqrt(expected * (1 - expected) / n)
    assert (pairs - expected).abs().max() < 5 * deviation


# blocks


@pytest.mark.parametrize("inverse", [False, True])
def test_shares_are_drawn_evenly_from_the_range_and_some_masks_hide_nothing(inverse):
    masks = drawn(block(inverse=inverse, smallest=4), images=3000, views=1)
    counts = masks.hidden.sum(dim=-1).flatten()
    hiding = counts[counts > 0]
    assert abs(len(hiding) / 3000 - 0.5) < 0.05
    assert (hiding.min().item(), hiding.max().item()) == (count_of(0.1, 64), count_of(0.5, 64)) == (6, 32)
    observed = torch.bincount(hiding, minlength=33)[6:].double()
    assert stats.chisquare(observed.numpy()).pvalue > 1e-3
    assert masks.targets.shape[-1] == 32 and masks.visible is None


def naive_block(draws: list[float], masking: BlockMasking, grid: Grid) -> tuple[set[int], set[int], list[tuple]]:
    """The hidden patches of one mask, those of them that belong to no block, and the blocks that were taken."""
    low, high = (count_of(share, grid.patches) for share in masking.share)
    wanted = low + int(draws[0] * (high - low + 1))
    wanted = wanted if draws[1] < masking.probability else 0
    wanted = grid.patches - wanted if masking.inverse else wanted
    chosen, taken = set[int](), []
    for number in range(blocks.BLOCKS):
        size, shape, down, across = draws[2 + 4 * number : 6 + 4 * number]
        area = masking.smallest + size * max(0, wanted - len(chosen) - masking.smallest)
        aspect = math.exp((2 * shape - 1) * math.log(1 / masking.aspect))
        height = min(grid.height, max(1, round(math.sqrt(area * aspect))))
        width = min(grid.width, max(1, round(math.sqrt(area / aspect))))
        top, left = int(down * (grid.height - height + 1)), int(across * (grid.width - width + 1))
        box = {y * grid.width + x for y in range(top, top + height) for x in range(left, left + width)}
        if len(chosen | box) <= wanted:
            chosen |= box
            taken.append((height, width, area))
    order = draws[-grid.patches :]
    single = sorted(set(range(grid.patches)) - chosen, key=lambda patch: -order[patch])[: wanted - len(chosen)]
    found = chosen | set(single)
    return (set(range(grid.patches)) - found if masking.inverse else found), set(single), taken


@pytest.mark.parametrize("grid", [GRID, Grid(7, 7), Grid(4, 10)])
@pytest.mark.parametrize("inverse", [False, True])
def test_blocks_are_rectangles_within_their_limits_and_single_patches(grid, inverse):
    masking = block(inverse=inverse, probability=0.8)
    hidden = drawn(masking, images=60, grid=grid).hidden
    table = randomness.uniforms(5, "masks", 3, 2 * 60, masking.columns(grid)).astype("float64")
    singles = total = 0
    for row, found in zip(table.tolist(), lists(hidden), strict=True):
        expected, single, taken = naive_block(row, masking, grid)
        assert {patch for patch, yes in enumerate(found) if yes} == expected
        singles, total = singles + len(single), total + sum(found)
        for height, width, area in taken:
            assert 4 <= area <= grid.patches
            if max(height / grid.height, width / grid.width) < 1:  # not cut off by the image
                assert 0.3 * area - 1e-9 <= (height + 0.5) ** 2 and (height - 0.5) ** 2 <= area / 0.3 + 1e-9
                assert (height - 0.5) * (width - 0.5) <= area <= (height + 0.5) * (width + 0.5)
    assert inverse or singles < 0.25 * total


@pytest.mark.parametrize("seed", range(4))
def test_rectangles_equal_loops(seed):
    generator, grid = torch.Generator().manual_seed(seed), Grid(5, 7)
    height, width = (torch.randint(1, side + 1, (6,), generator=generator) for side in grid)
    top, left = ((torch.rand(6) * (side - of + 1)).floor() for side, of in zip(grid, (height, width), strict=True))
    found = rectangles(top, left, height, width, grid)
    for n in range(6):
        for y in range(5):
            for x in range(7):
                inside = top[n] <= y < top[n] + height[n] and left[n] <= x < left[n] + width[n]
                assert found[n, y, x] == inside


def test_of_hidden_equals_lists():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(2, 3, 4, 11, generator=generator) < torch.rand(2, 3, 4, 1, generator=generator)
    hidden[0, 0, 0] = False
    most = int(hidden.sum(dim=-1).max())
    masks = of_hidden(hidden, most, None)
    assert masks.visible is None and masks.targets.shape == (2, 3, 4, 1, most)
    for row, (places,), (weights,) in zip(lists(hidden), lists(masks.targets), lists(masks.weights), strict=True):
        expected = [patch for patch in range(11) if row[patch]]
        assert places[: len(expected)] == expected
        assert len(set(places)) == most
        assert weights == pytest.approx(
            [1 / len(expected)] * len(expected) + [0] * (most - len(expected)) if expected else [0] * most
        )
    same = torch.zeros(1, 1, 3, 6, dtype=torch.bool)
    same[..., [1, 4]] = True
    visible = of_hidden(same, 2, 4).visible
    assert visible is not None and lists(visible) == [[0, 2, 3, 5]] * 3


# I-JEPA


def naive_multi_block(masking: MultiBlockMasking, grid: Grid, table: list[list[float]], shared: list[float]):
    """The contexts and the targets of all masks, as sorted lists."""

    def between(draw: float, limits) -> float:
        return limits[0] + draw * (limits[1] - limits[0])

    def box(down: float, across: float, height: int, width: int) -> list[int]:
        top, left = int(down * (grid.height - height + 1)), int(across * (grid.width - width + 1))
        return [y * grid.width + x for y in range(top, top + height) for x in range(left, left + width)]

    area, aspect = between(shared[0], masking.target_scale) * grid.patches, between(shared[1], masking.target_aspect)
    height = max(1, min(grid.height - 1, round(math.sqrt(area * aspect))))
    width = max(1, min(grid.width - 1, round(math.sqrt(area / aspect))))
    side = max(1, round(math.sqrt(between(shared[2], masking.context_scale) * grid.patches)))
    contexts, targets = [], []
    for row in table:
        order = row[-grid.patches :]
        targets.append([box(*row[2 + 2 * t : 4 + 2 * t], height, width) for t in range(masking.targets)])
        taken = {patch for target in targets[-1] for patch in target}
        context = set(box(row[0], row[1], min(side, grid.height), min(side, grid.width))) - taken
        spare = sorted(set(range(grid.patches)) - context, key=lambda patch: (patch in taken, -order[patch]))
        context |= set(spare[: max(0, masking.least_context - len(context))])
        contexts.append(sorted(context, key=lambda patch: -order[patch]))
    kept = min(map(len, contexts))
    return [sorted(context[:kept]) for context in contexts], targets


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("grid", [GRID, Grid(7, 7), Grid(6, 10)])
def test_contexts_and_targets_equal_lists(step, grid):
    masking = multi_block()
    masks = drawn(masking, step=step, images=10, grid=grid)
    table = randomness.uniforms(5, "masks", step, 2 * 10, masking.columns(grid)).astype("float64").tolist()
    shared = randomness.uniforms(5, "masks/shared", step, 1, 3).astype("float64")[0].tolist()
    contexts, targets = naive_multi_block(masking, grid, table, shared)
    assert masks.visible is not None
    assert lists(masks.visible) == contexts
    assert lists(masks.targets) == targets


def test_contexts_of_a_batch_have_one_length_and_never_overlap_targets_that_are_full_rectangles():
    sizes = set()
    for step in range(60):
        masks = drawn(multi_block(), step=step, images=16, views=1)
        assert masks.visible is not None and masks.visible.shape[-1] >= 10
        for visible, groups in zip(lists(masks.visible), lists(masks.targets), strict=True):
            for group in groups:
                assert not set(visible) & set(group)
                rows, columns = ({patch // 8 for patch in group}, {patch % 8 for patch in group})
                assert len(group) == len(set(group)) == len(rows) * len(columns)
                assert max(rows) - min(rows) + 1 == len(rows) and max(columns) - min(columns) + 1 == len(columns)
                sizes.add((len(rows), len(columns)))
    areas = [rows * columns / 64 for rows, columns in sizes]
    assert len(sizes) > 3
    assert min(areas) >= 9 / 64  # whole patches: 3 x 3 for 0.15, 4 x 4 for 0.2
    assert max(areas) <= 16 / 64


def test_a_context_that_is_too_small_takes_patches_outside_the_targets_first():
    """Of 16 patches two targets of 2 x 3 leave 4 to 8; a context of 4 never needs theirs, one of 7 sometimes does."""
    settings = {
        "targets": 2,
        "target_scale": (0.375, 0.375),
        "target_aspect": (0.67, 0.67),
        "context_scale": (0.3, 0.4),
    }
    overlaps = {}
    for least in (4, 7):
        masks = drawn(multi_block(**settings, least_context=least), images=300, views=1, grid=Grid(4, 4))
        assert masks.visible is not None and masks.visible.shape[-1] == least
        outside = []
        for visible, groups in zip(lists(masks.visible), lists(masks.targets), strict=True):
            taken = {patch for group in groups for patch in group}
            outside.append((len(set(visible) & taken), 16 - len(taken)))
        assert all(inside == max(0, least - free) for inside, free in outside)
        overlaps[least] = any(inside for inside, _ in outside)
    assert overlaps == {4: False, 7: True}


# refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random(share=0.0), "share=0"),
        (lambda: random(share=1.0), "share=1"),
        (lambda: random(unit=0), "unit=0"),
        (lambda: random(masks=0), "masks=0"),
        (lambda: block(share=(0.5, 0.1)), "share="),
        (lambda: block(share=(0.5,)), "share="),
        (lambda: block(aspect=0), "aspect=0"),
        (lambda: block(smallest=0), "smallest=0"),
        (lambda: block(probability=1.5), "probability"),
        (lambda: multi_block(targets=0), "targets=0"),
        (lambda: multi_block(target_scale=(0.3, 0.2)), "target_scale"),
        (lambda: multi_block(context_scale=(0.9, 1.1)), "context_scale"),
        (lambda: multi_block(target_aspect=(0, 1)), "target_aspect"),
        (lambda: random(unit=3).check(GRID), "unit=3 does not cut 8 x 8"),
        (lambda: random(unit=8).check(GRID), "unit=8"),
        (lambda: block().check(Grid(1, 1)), "several patches"),
        (lambda: block(smallest=33).check(GRID), "smallest=33, but at most 32 of 64 patches are hidden"),
        (lambda: block(smallest=59, inverse=True).check(GRID), "at most 58 of 64 patches are left visible"),
        (lambda: multi_block().check(Grid(3, 3)), "least_context=10 of 9 patches"),
    ],
)
def test_what_cannot_be_hidden_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ALL)
def test_all_of_them_take_grids_of_usual_images(name):
    for grid in (Grid(7, 7), GRID, Grid(14, 14), Grid(16, 16)):
        if "squares" not in name or grid.height % 2 == 0:
            ALL[name].check(grid)
