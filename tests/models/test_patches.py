"""Patches, their pixels and positions, beside loops."""

import math

import numpy as np
import pytest
import torch

from ssl_runner.models.patches import Grid, patchify, sincos, take, unpatchify


def test_take_equals_a_loop():
    tokens, places = torch.randn(3, 7, 5), torch.tensor([[6, 0], [1, 1], [2, 5]])
    found = take(tokens, places)
    assert all(torch.equal(found[r, p], tokens[r, places[r, p]]) for r in range(3) for p in range(2))


@pytest.mark.parametrize(("channels", "side", "size"), [(1, 4, (8, 12)), (3, 2, (6, 4)), (3, 7, (28, 28))])
def test_pixels_of_a_patch_are_read_row_by_row_channel_after_channel_and_put_back(channels, side, size):
    images = torch.randn(2, channels, *size)
    found = patchify(images, side)
    across = size[1] // side
    for patch in range(found.shape[1]):
        y, x = side * (patch // across), side * (patch % across)
        expected = [images[:, c, y + i, x + j] for c in range(channels) for i in range(side) for j in range(side)]
        assert torch.equal(found[:, patch], torch.stack(expected, dim=1))
    assert torch.equal(unpatchify(found, side, size), images)


@pytest.mark.parametrize(("grid", "width"), [(Grid(3, 5), 8), (Grid(8, 8), 192), (Grid(1, 1), 4)])
def test_positions_equal_a_loop(grid, width):
    found, quarter = sincos(grid, width), width // 4
    assert found.shape == (grid.patches, width)
    for row in range(grid.height):
        for column in range(grid.width):
            expected = []
            for place in (column, row):
                angles = [place / 10_000 ** (k / quarter) for k in range(quarter)]
                expected += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            assert found[row * grid.width + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_positions_are_those_of_mae():
    """Its grid puts the column first: a meshgrid of columns and rows, the outer products of each with the rates."""
    columns, rows = np.meshgrid(np.arange(6.0), np.arange(4.0))
    rates = 1 / 10_000 ** (np.arange(3) / 3)
    halves = []
    for places in (columns, rows):
        angles = np.outer(places.ravel(), rates)
        halves += [np.sin(angles), np.cos(angles)]
    expected = np.concatenate(halves, axis=1)
    np.testing.assert_allclose(sincos(Grid(4, 6), 12).numpy(), expected, atol=1e-6)


def test_widths_that_four_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="width=10; sines and cosines"):
        sincos(Grid(2, 2), 10)
