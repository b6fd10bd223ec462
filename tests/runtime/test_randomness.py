import numpy as np
import torch

from ssl_runner.runtime import randomness


def test_a_draw_depends_only_on_seed_stream_and_step():
    first = randomness.uniforms(3, "tasks", 5, 4, 6)
    assert np.array_equal(first, randomness.uniforms(3, "tasks", 5, 4, 6))
    for other in ((4, "tasks", 5), (3, "order", 5), (3, "tasks", 6)):
        assert not np.array_equal(first, randomness.uniforms(*other, 4, 6))


def test_uniforms_fill_the_unit_interval_evenly():
    draws = randomness.uniforms(0, "test", 0, 1000, 100)
    assert draws.dtype == np.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001


def test_neighbouring_steps_are_independent():
    steps = np.stack([randomness.uniforms(0, "test", step, 1, 500)[0] for step in range(50)])
    correlation = np.corrcoef(steps)[~np.eye(50, dtype=bool)]
    assert np.abs(correlation).max() < 0.25


def test_a_permutation_has_every_number_once():
    assert sorted(randomness.permutation(0, "order", 2, 101)) == list(range(101))


def test_each_step_has_its_own_generator():
    draw = torch.rand(5, generator=randomness.generator(1, "loss", 2))
    torch.rand(7)  # the global generator has no part in it
    assert torch.equal(draw, torch.rand(5, generator=randomness.generator(1, "loss", 2)))
