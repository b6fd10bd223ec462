"""Every loss with every arrangement of views learns, or is refused with the reason before anything is created."""

import pytest
from combinations import ARRANGEMENTS, CONF, FITS, OF_LOGITS, SMALL

from ssl_runner.cli.compose import Composer, compose_config
from ssl_runner.config.schema import check
from ssl_runner.errors import ConfigError
from ssl_runner.training.run import Run
from ssl_runner.wiring import wire

HEAD = ["model.head.hidden_features=16", "model.head.out_features=12"]


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(CONF)


def wired(composer: Composer, loss: str, arrangement: str, *more: str) -> Run:
    overrides = ["experiment=simclr_digits", f"loss={loss}", *ARRANGEMENTS[arrangement], *more, *SMALL]
    if loss == "w_mse":
        overrides.append("loss.size=16")
    if arrangement != "supervised":
        overrides += HEAD
    config, _ = compose_config(composer, overrides)
    return wire.wire(check(config))


def learns(run: Run) -> bool:
    """Whether a step changes the encoder; the loss must be finite."""
    before = [parameter.detach().clone() for parameter in run.algorithm.network.encoder.parameters()]
    _, metrics = run.one_step()
    assert abs(metrics["loss"]) < 1e6
    pairs = zip(before, run.algorithm.network.encoder.parameters(), strict=True)
    return any(not old.equal(new) for old, new in pairs)


def test_the_table_has_every_loss():
    assert set(FITS) == {path.stem for path in (CONF / "loss").glob("*.yaml")}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("loss", FITS)
def test_a_loss_learns_in_its_arrangements_and_is_refused_in_all_others(composer, loss, arrangement):
    if arrangement in FITS[loss][0]:
        assert learns(wired(composer, loss, arrangement))
        return
    with pytest.raises(ConfigError, match=r"choose|set ") as refused:
        wired(composer, loss, arrangement)
    assert all("loss" in problem or "the head" in problem for problem in refused.value.problems)


@pytest.mark.parametrize("loss", sorted(FITS.keys() - OF_LOGITS))
def test_small_crops_are_accepted_by_a_loss_of_many_views_and_refused_by_a_loss_of_two(composer, loss):
    arrangements, many = FITS[loss]
    arrangement = sorted(arrangements)[0]
    if many:
        assert learns(wired(composer, loss, arrangement, "batching=multi_crop"))
        return
    with pytest.raises(ConfigError, match=r"compares 2 views, but batching makes 6; choose batching=two_view"):
        wired(composer, loss, arrangement, "batching=multi_crop")
