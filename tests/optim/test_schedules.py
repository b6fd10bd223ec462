import pytest

from ssl_runner.optim.schedules import Constant, StepDecay, WarmupCosine, half_cosine, straight


def test_warmup_cosine_at_its_first_peak_middle_and_last_step():
    schedule = WarmupCosine(warmup_steps=10, final=0.1)
    assert schedule(0, 110) == pytest.approx(0.1)
    assert schedule(9, 110) == pytest.approx(1.0)
    assert schedule(10, 110) == pytest.approx(1.0)
    assert schedule(60, 110) == pytest.approx(0.55)
    assert 0.1 < schedule(109, 110) < 0.101


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert WarmupCosine(warmup_steps=0, final=0.0)(0, 5) == 1.0


def test_a_run_shorter_than_its_warm_up_ends_during_it():
    schedule = WarmupCosine(warmup_steps=100, final=0.0)
    assert [schedule(step, 2) for step in range(2)] == [0.01, 0.02]


def test_step_decay_halves_at_its_steps():
    schedule = StepDecay(every=700, factor=0.5)
    assert [schedule(step, 3000) for step in (0, 699, 700, 1400)] == [1.0, 1.0, 0.5, 0.25]


def test_a_straight_line_and_half_a_cosine_share_their_ends_and_middle():
    for place, value in ((0.0, 0.996), (0.5, 0.998), (1.0, 1.0)):
        assert straight(0.996, 1.0, place) == pytest.approx(value) == half_cosine(0.996, 1.0, place)
    assert straight(0.996, 1.0, 0.25) == pytest.approx(0.997)
    assert half_cosine(0.996, 1.0, 0.25) < 0.9967


def test_constant_is_constant():
    assert {Constant()(step, 10) for step in range(10)} == {1.0}


@pytest.mark.parametrize(
    "make",
    [
        lambda: WarmupCosine(-1, 0.0),
        lambda: WarmupCosine(1, 1.5),
        lambda: StepDecay(0, 0.5),
        lambda: WarmupCosine(1, 0.0, final_weight_decay=-0.1),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError, match="give at least"):
        make()
